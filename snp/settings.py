"""What may be asked of a prune?  One validated set of options, the same for the library and the command line."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from snp.core import cuts, orderings

__all__ = ["BUDGETS", "PruneSettings"]

_CHOICES = {
    "calibration": ("sequential", "joint"),
    "conv_gram": ("patch", "channel"),
    "batch_norm": ("keep", "reestimate"),
    "attention": ("free", "equal"),
}
_STRUCTURES = ("ffn", "vo", "qk", "heads")
_TARGETS = ("target_var", "target_units", "target_macs", "target_params", "target_latency")
BUDGETS = ("macs", "params", "latency")
_CUT_OF_TARGET = {"target_var": "variance", "target_units": "uniform"}


@dataclass(frozen=True)
class PruneSettings:
    """Options of one prune; at most one target may be given, none means half of the MACs.

    Attributes:
        target_var: cumulative variance that every group keeps, in (0, 1]; goes with ``cut="variance"``.
        target_units: share of units that every group keeps, in (0, 1]; goes with ``cut="uniform"``.
        target_macs: share of the dense network's multiply-accumulates that is left, in (0, 1].
        target_params: share of the dense network's parameters that is left, in (0, 1]; see ``count_embeddings``.
        count_embeddings: ``target_params`` counts tables that are looked up (token and position embeddings) and heads
            tied to them, too; without, it is a share of the other parameters, as usual for language models.
        target_latency: share of the time of the dense network's forward pass that is left, in (0, 1], by a table of
            layer times measured on this machine.
        latency_batch: samples per pass where passes are timed, for a plan or against each other, at least 1.
        latency_threads: CPU threads of these passes, at least 1.
        planner: name of a file in ``snp/planners``.
        ordering: name of a file in ``snp/core/orderings``; ``"auto"`` is the paper's ``zca`` beside the paper's
            variance cut and ``output`` elsewhere.
        cut: name of a file in ``snp/core/cuts``; ``"auto"`` is what the target goes with, ``output`` for budgets.
        trials: correct what ``cut="output"`` expects of a group's cut by trying a few cuts of each group on a part of
            the calibration samples.
        reconstruct: fold the cut units into the weights that stay (False: plain deletion).
        calibration: ``"joint"`` fits every layer on the dense network's activations; ``"sequential"`` fits them in
            execution order on what the pruned network feeds them.
        conv_gram: ``"patch"`` fits every kernel element of a convolution, ``"channel"`` one transfer per kernel.
        intercept: fit an offset into biases, too (sequential only).
        repair: let layers that add to a residual stream make up for its error so far (sequential only).
        rectify: fit what a ReLU behind a layer lets through, instead of the layer's outputs (sequential only).
        refit_all: fit layers that lose no inputs, too, once their inputs have moved (sequential only).
        batch_norm: ``"keep"`` normalisation statistics or ``"reestimate"`` them on the pruned network's activations
            (sequential only).
        ridge: of the least-squares fit, relative to the mean energy of a kept column, >= 0; None chooses it layer by
            layer on held-back calibration samples (sequential), or takes 1e-4 (joint).
        memory_gib: what the activations of the sequential fit may take; it uses fewer samples beyond, > 0.
        ignore: shell patterns; groups that touch a layer or tensor so named (or are so named) are left alone.
        structures: what is cut in layers of linear maps: ``ffn`` (hidden units), and in attention ``vo`` (dimensions of
            values and of the output projection, per head), ``qk`` (dimensions of queries and keys) and ``heads``.
            Channels of convolutions are cut whatever this says.
        attention: ``"free"`` lets queries and values keep different sizes, in a small module of ours where the stock
            one cannot; ``"equal"`` cuts both alike, in the stock module.
        streams: cut residual streams, too, not only units inside blocks.
        round_to: kept units are a multiple of this in groups of at least 16 times as many units; 1 switches it off.
        seed: of everything random.
        dry_run: a run lists the groups and stops; the library call for that is ``snp.inspect``.
    """

    target_var: float | None = None
    target_units: float | None = None
    target_macs: float | None = None
    target_params: float | None = None
    target_latency: float | None = None
    latency_batch: int = 8
    latency_threads: int = 1
    count_embeddings: bool = False
    planner: str = "snp"
    ordering: str = "auto"
    cut: str = "auto"
    trials: bool = True
    reconstruct: bool = True
    calibration: str = "sequential"
    conv_gram: str = "patch"
    intercept: bool = True
    repair: bool = True
    rectify: bool = True
    refit_all: bool = True
    batch_norm: str = "keep"
    ridge: float | None = None
    memory_gib: float = 8.0
    ignore: tuple[str, ...] = ()
    structures: tuple[str, ...] = ("ffn",)
    attention: str = "free"
    streams: bool = False
    round_to: int = 8
    seed: int = 0
    dry_run: bool = False

    def __post_init__(self) -> None:
        self._check_names()
        self._check_target()
        if self.ridge is not None and (not _is_number(self.ridge) or self.ridge < 0):
            raise ValueError(f"prune.ridge must be a number of at least 0 or null, found {self.ridge!r}")
        if not _is_number(self.memory_gib) or self.memory_gib <= 0:
            raise ValueError(f"prune.memory_gib must be a number above 0, found {self.memory_gib!r}")
        for name, least in (("round_to", 1), ("seed", 0), ("latency_batch", 1), ("latency_threads", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
                raise ValueError(f"prune.{name} must be a whole number of at least {least}, found {value!r}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"prune.{name} must be one of {', '.join(choices)}; found {getattr(self, name)!r}")
        for name in (field.name for field in fields(self) if field.type == "bool"):  # annotations are text here
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"prune.{name} must be true or false, found {getattr(self, name)!r}")
        if not isinstance(self.ignore, (list, tuple)) or not all(isinstance(pattern, str) for pattern in self.ignore):
            raise ValueError(f"prune.ignore must be a list of patterns such as ['head*'], found {self.ignore!r}")
        object.__setattr__(self, "ignore", tuple(self.ignore))
        self._check_structures()

    def _check_structures(self) -> None:
        found = self.structures
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
        if self.attention == "equal" and len({"vo", "qk"} & set(found)) == 1:
            raise ValueError("prune.attention=equal cuts vo and qk together: name both in prune.structures, or neither")
        object.__setattr__(self, "structures", tuple(found))

    def _check_names(self) -> None:
        """Names are files of folders; the planners' folder is only looked at, because planners import this module."""
        folder = Path(__file__).parent / "planners"
        planners = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
        known = {"planner": planners, "ordering": ["auto", *orderings.names()], "cut": ["auto", *cuts.names()]}
        for name, choices in known.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"prune.{name} must be one of {', '.join(choices)}; found {getattr(self, name)!r}")
        if self.planner != "snp" and self.target_var is not None:
            raise ValueError(
                f"prune.target_var goes with prune.planner=snp, because {self.planner} measures no such share; give "
                "prune.target_units, prune.target_macs or prune.target_params"
            )

    def _check_target(self) -> None:
        given = [name for name in _TARGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"prune.{' and prune.'.join(given)} exclude each other: give one of them")
        for name in given:
            value = getattr(self, name)
            if not _is_number(value) or not 0 < value <= 1:
                raise ValueError(f"prune.{name} must be a number in (0, 1], found {value!r}")
            wanted = _CUT_OF_TARGET.get(name)
            if wanted is not None and self.cut not in ("auto", wanted):
                raise ValueError(
                    f"prune.{name} goes with prune.cut={wanted}, found prune.cut={self.cut!r}: change the cut, or give "
                    "prune.target_macs or prune.target_params, which go with every cut"
                )

    @property
    def target(self) -> tuple[str, float]:
        """Name of the target without ``target_`` and its value."""
        for name in _TARGETS:
            if getattr(self, name) is not None:
                return name.removeprefix("target_"), float(getattr(self, name))
        return "macs", 0.5

    @property
    def cut_name(self) -> str:
        """The cut, with ``"auto"`` decided by the target."""
        return _CUT_OF_TARGET.get(f"target_{self.target[0]}", "output") if self.cut == "auto" else self.cut

    @property
    def ordering_name(self) -> str:
        """The ordering, with ``"auto"`` decided by the cut."""
        if self.ordering != "auto":
            return self.ordering
        return "zca" if self.cut_name == "variance" else "output"

    @property
    def needs_sensitivity(self) -> bool:
        """Does the choice of units look at how much the network's output moves?"""
        return self.planner == "snp" and "output" in (self.cut_name, self.ordering_name)

    @property
    def needs_trials(self) -> bool:
        """Are single groups cut on trial?"""
        return self.trials and self.reconstruct and self.planner == "snp" and self.cut_name == "output"

    @property
    def is_sequential(self) -> bool:
        """Are layers fitted in execution order?"""
        return self.reconstruct and self.calibration == "sequential"

    @property
    def moment_gram(self) -> str:
        """What moments are made of: patches only where the choice of units or a joint fit looks at them."""
        patches = self.conv_gram == "patch" and (self.needs_sensitivity or not self.is_sequential)
        return "patch" if patches else "channel"

    @property
    def largest_patch(self) -> int:
        """Columns of a patch Gram beyond which moments are made by channel.

        Choosing units needs no more: eliminating 512 channels of 3 x 3 patches one by one takes minutes. A joint fit
        solves from the moments themselves.
        """
        return 2304 if self.is_sequential else 8192

    def to_json(self) -> dict[str, Any]:
        """All options as JSON values."""
        plain = asdict(self) | {
            "ignore": list(self.ignore),
            "structures": list(self.structures),
            "cut": self.cut_name,
            "ordering": self.ordering_name,
        }
        return {key: value for key, value in plain.items() if key not in _TARGETS} | {"target": dict([self.target])}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
