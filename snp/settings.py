"""What may be asked of a prune?  One validated set of options, the same for the library and the command line."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from snp.option_checks import CUT_OF_TARGET, TARGETS, check_names, check_plain, check_structures, check_target

__all__ = ["BUDGETS", "PruneSettings"]

BUDGETS = ("macs", "params", "latency")


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
        planner: name of a file in ``snp/plan/planners``.
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
        round_to: kept units are a multiple of this in wide groups; 1 switches it off.
        round_from: how many units a wide group has, at least; None: 16 times ``round_to``.
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
    round_from: int | None = None
    seed: int = 0
    dry_run: bool = False

    def __post_init__(self) -> None:
        check_names(self)
        check_target(self)
        check_plain(self)
        check_structures(self)
        object.__setattr__(self, "ignore", tuple(self.ignore))
        object.__setattr__(self, "structures", tuple(self.structures))

    @property
    def target(self) -> tuple[str, float]:
        """Name of the target without ``target_`` and its value."""
        for name in TARGETS:
            if getattr(self, name) is not None:
                return name.removeprefix("target_"), float(getattr(self, name))
        return "macs", 0.5

    @property
    def cut_name(self) -> str:
        """The cut, with ``"auto"`` decided by the target."""
        return CUT_OF_TARGET.get(f"target_{self.target[0]}", "output") if self.cut == "auto" else self.cut

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
        return {key: value for key, value in plain.items() if key not in TARGETS} | {"target": dict([self.target])}
