"""By which settings do runs differ, the seed aside?  Folders, devices and what is shown are none of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from snp.core.deciding import deciding
from snp.report.record import Record

__all__ = ["FOUND", "SEEDS", "varying_settings"]

# What the settings of a plan hold that nobody asked for: it was found.
FOUND = frozenset({"level", "samples", "repeats", "tilted", "multiples", "unreached", "untied"})
# Options whose `auto` a plan replaces by what was found of one network, on one device: of another seed it may be other.
_DECIDED = ("mirrored", "objective", "round_to", "round_from")
# By these no setting is told from another one.
SEEDS = frozenset({"seed", "prune.seed"})

_NAMES = ("model", "data")
_PARTS_OF_CONFIG = (*_NAMES, "trainer", "dense", "finetune", "calibration")


def varying_settings(records: Sequence[Record]) -> dict[str, list[str]]:
    """Setting -> its value in every run, for settings in which runs differ; "-" where a run has none.

    Those of the prune come first, by their own names. What each network or data set brings along is told by its name.
    """
    known = [_settings(record) for record in records]
    names = list(dict.fromkeys(name for settings in known for name in settings))
    values = {name: [_text(settings.get(name)) for settings in known] for name in names}
    return {name: found for name, found in values.items() if len(set(found)) > 1 and not _follows(name, values)}


def _settings(record: Record) -> dict[str, Any]:
    """Settings of the prune, decided where nothing but other settings decides, and those around it by dotted name."""
    found: dict[str, Any] = dict(record.settings) | _asked(record) | {"model": record.model, "data": record.data}
    found |= {"seed": record.seed, "prune.seed": record.settings.get("seed")}
    for name, value in deciding(record.facts.get("config") or {}).items():
        part, *options = name.split(".")
        if part in _PARTS_OF_CONFIG and options != ["name"] and not any(option[:1] == "_" for option in options):
            found[name] = value
    if record.metrics.get("finetuned/params"):  # each process has batches of its own
        found["trainer.processes"] = record.facts.get("processes", 1)
    return found


def _asked(record: Record) -> dict[str, Any]:
    """What was asked for, of options that a plan replaces by what was found.

    A plan alone does not say who decided on mirrored images. Its objective stands: networks of one kind have the same.
    """
    given = (record.facts.get("config") or {}).get("prune") or {}
    alone = {"mirrored": None} | ({"round_to": "auto", "round_from": None} if "multiples" in record.settings else {})
    return alone | {name: given[name] for name in _DECIDED if name in given}


def _follows(name: str, values: Mapping[str, list[str]]) -> bool:
    """Has every network, or data set, one value of the setting, which goes with its name, or every run one seed?"""
    if name == "prune.seed":
        return values[name] == values["seed"]
    part, _, option = name.partition(".")
    if not option or part not in _NAMES:
        return False
    return len(set(zip(values[part], values[name], strict=True))) == len(set(values[part]))


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(
            f"{key} {entry:g}" if isinstance(entry, float) else f"{key} {entry}" for key, entry in value.items()
        )
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)
