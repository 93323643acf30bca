"""Which values may options have, and which of them contradict each other?"""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

from snp.core import cuts, orderings

__all__ = ["CUT_OF_TARGET", "TARGETS", "check_names", "check_plain", "check_structures", "check_target"]

_CHOICES = {
    "calibration": ("sequential", "joint"),
    "conv_gram": ("patch", "channel"),
    "batch_norm": ("keep", "reestimate"),
    "attention": ("free", "equal"),
}
_STRUCTURES = ("ffn", "vo", "qk", "heads")
TARGETS = ("target_var", "target_units", "target_macs", "target_params", "target_latency")
CUT_OF_TARGET = {"target_var": "variance", "target_units": "uniform"}


def check_plain(options: Any) -> None:
    """Numbers, choices, switches and patterns."""
    if options.ridge is not None and (not _is_number(options.ridge) or options.ridge < 0):
        raise ValueError(f"prune.ridge must be a number of at least 0 or null, found {options.ridge!r}")
    if not _is_number(options.memory_gib) or options.memory_gib <= 0:
        raise ValueError(f"prune.memory_gib must be a number above 0, found {options.memory_gib!r}")
    _check_counts(options)
    for name, choices in _CHOICES.items():
        if getattr(options, name) not in choices:
            raise ValueError(f"prune.{name} must be one of {', '.join(choices)}; found {getattr(options, name)!r}")
    for name in (field.name for field in fields(options) if field.type == "bool"):  # annotations are text here
        if not isinstance(getattr(options, name), bool):
            raise ValueError(f"prune.{name} must be true or false, found {getattr(options, name)!r}")
    if not isinstance(options.ignore, (list, tuple)) or not all(isinstance(pattern, str) for pattern in options.ignore):
        raise ValueError(f"prune.ignore must be a list of patterns such as ['head*'], found {options.ignore!r}")


def _check_counts(options: Any) -> None:
    """Whole numbers."""
    for name, least in (("round_to", 1), ("seed", 0), ("latency_batch", 1), ("latency_threads", 1)):
        value = getattr(options, name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
            raise ValueError(f"prune.{name} must be a whole number of at least {least}, found {value!r}")
    if options.round_from is not None and (type(options.round_from) is not int or options.round_from < 1):
        raise ValueError(f"prune.round_from must be a whole number of at least 1 or null, found {options.round_from!r}")


def check_structures(options: Any) -> None:
    """Kinds of units."""
    found = options.structures
    if not isinstance(found, (list, tuple)) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"prune.structures must be a list such as [ffn, vo], found {found!r}")
    if "residual" in found:
        raise ValueError(
            "prune.structures cannot hold residual: LayerNorm divides by the spread of all dimensions of the "
            "stream, so a narrower one computes something else; prune.streams=true cuts streams that meet no "
            "such norm"
        )
    unknown = sorted(set(found) - set(_STRUCTURES))
    if unknown:
        raise ValueError(f"prune.structures may hold {', '.join(_STRUCTURES)}; found {', '.join(unknown)}")
    if options.attention == "equal" and len({"vo", "qk"} & set(found)) == 1:
        raise ValueError("prune.attention=equal cuts vo and qk together: name both in prune.structures, or neither")


def check_names(options: Any) -> None:
    """Names are files of folders; the planners' folder is only looked at, because planners import this module."""
    folder = Path(__file__).parent / "plan" / "planners"
    planners = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    known = {"planner": planners, "ordering": ["auto", *orderings.names()], "cut": ["auto", *cuts.names()]}
    for name, choices in known.items():
        if getattr(options, name) not in choices:
            raise ValueError(f"prune.{name} must be one of {', '.join(choices)}; found {getattr(options, name)!r}")
    if options.planner != "snp" and options.target_var is not None:
        raise ValueError(
            f"prune.target_var goes with prune.planner=snp, because {options.planner} measures no such share; give "
            "prune.target_units, prune.target_macs or prune.target_params"
        )


def check_target(options: Any) -> None:
    """At most one target, in its range, with a cut that goes with it."""
    given = [name for name in TARGETS if getattr(options, name) is not None]
    if len(given) > 1:
        raise ValueError(f"prune.{' and prune.'.join(given)} exclude each other: give one of them")
    for name in given:
        value = getattr(options, name)
        if not _is_number(value) or not 0 < value <= 1:
            raise ValueError(f"prune.{name} must be a number in (0, 1], found {value!r}")
        wanted = CUT_OF_TARGET.get(name)
        if wanted is not None and options.cut not in ("auto", wanted):
            raise ValueError(
                f"prune.{name} goes with prune.cut={wanted}, found prune.cut={options.cut!r}: change the cut, or give "
                "prune.target_macs or prune.target_params, which go with every cut"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
