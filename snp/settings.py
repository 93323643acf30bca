"""What may be asked of a prune?  One validated set of options, the same for the library and the command line.

Options, defaults, limits and meanings stand here, in :mod:`snp.core.fit_settings` and :mod:`snp.core.target_settings`,
and nowhere else: docstrings are made of them, and a test holds ``conf/config.yaml``, which ``--help`` shows, to them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields, replace
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from snp.core import cuts, orderings
from snp.core.budget import Target
from snp.core.fit_settings import FitSettings
from snp.core.options import STRICT, named, option
from snp.core.presets import fill_in
from snp.core.registry import Registry
from snp.core.structures import check_blocks, check_structures, decided, remedies_beside
from snp.core.target_settings import TARGETS, TargetSettings

__all__ = ["PLANNERS", "FitSettings", "PruneSettings", "TargetSettings"]

PLANNERS = Registry("prune.planner", "snp.planners", "snp.plan.planners", "choose")
_OBJECTIVES = ("auto", "kl", "squared")


@named(lambda given: "prune")
@dataclass(frozen=True, config=STRICT, kw_only=True)
class PruneSettings(TargetSettings, FitSettings):
    """Options of one prune; at most one target may be given, none means half of the MACs."""

    preset: Literal["best", "quick", "paper"] = option(
        "best",
        "fills options left at their defaults; quick: at most five forward passes beyond calibration, no trials, "
        "fitted on the dense activations, kernels as a whole, statistics of norms anew; paper: as in arXiv 2405.17506",
    )
    planner: str = option("snp", "a file in snp/plan/planners, or an entry point of snp.planners")
    ordering: str = option(
        "auto", "a file in snp/core/orderings, or an entry point; auto: zca with cut=variance, else output"
    )
    cut: str = option(
        "auto",
        "a file in snp/core/cuts or an entry point; auto: variance for target_var, uniform for target_units, "
        "else output",
    )
    objective: str | Callable[[Any, Any], Any] = option(
        "auto",
        "what cut=output holds outputs to: divergence of class logits (kl), squared error beside an output's spread; "
        "auto: kl for what looks like logits; the library also takes a function of both networks' outputs",
    )
    trials: bool = option(True, "cut=output tries a few cuts of each group, to see what they really do")
    mirrored: bool | Literal["auto"] = option(
        "auto", "calibrate on mirrored images, too; auto: where the dense network sees the same in them"
    )
    ignore: tuple[str, ...] = option(
        (),
        'patterns of groups, layers or tensors whose shapes are left alone, as [head,"layer4.*"]',
        strict=False,
        examples=[("head*",)],
    )
    structures: Annotated[tuple[str, ...], Field(strict=False)] | Literal["auto"] = option(
        "auto",
        "hidden units (ffn), in attention vo, qk (dimensions per head) and heads; width: of the stream of a "
        "transformer; blocks: whole residual ones; channels always; auto: ffn, with target_latency blocks, too",
        examples=[("ffn", "vo")],
    )
    attention: Literal["free", "equal"] = option(
        "free", "sizes of queries and values may differ; equal: they do not, and the stock module stays"
    )
    streams: bool = option(False, "cut residual streams, too")
    seed: int = option(0, "of everything random", ge=0, lt=2**63)
    dry_run: bool = option(False, "list the groups that can be cut, and why others cannot, and stop")

    def __post_init__(self) -> None:
        fill_in(self)
        PLANNERS.check(self.planner)
        orderings.REGISTRY.check(self.ordering, also=("auto",))
        cuts.REGISTRY.check(self.cut, also=("auto",))
        if not callable(self.objective) and self.objective not in _OBJECTIVES:
            raise ValueError(
                f"prune.objective must be one of {', '.join(_OBJECTIVES)}, or in the library a function of both "
                f"networks' outputs, found {self.objective!r}"
            )
        self._check_target()
        check_structures(self.cut_structures, self.attention)
        check_blocks(self.cut_structures, self._needs_of_blocks())

    def _needs_of_blocks(self) -> dict[str, bool]:
        """What weighing whole blocks against units takes, in words -> is it there?"""
        return {
            "prune.target_macs, prune.target_params or prune.target_latency": super().target.is_budget,
            "trial cuts (prune.trials=true with planner=snp, cut=output and reconstruct=true)": self.needs_trials,
            "prune.calibration=sequential": self.is_sequential,
            "prune.streams=false": not self.streams,
            "no width": "width" not in self.structures,
        }

    def _check_target(self) -> None:
        """At most one target, with a cut and a planner that go with it."""
        given = [name for name in TARGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"prune.{' and prune.'.join(given)} exclude each other: give one of them")
        target = self.target
        if given and not target.is_budget and self.cut not in ("auto", target.cut):
            raise ValueError(
                f"{target.option} goes with prune.cut={target.cut}, found prune.cut={self.cut!r}: change the cut, or "
                "give prune.target_macs or prune.target_params, which go with every cut"
            )
        if target.kind == "var" and self.planner != "snp":
            raise ValueError(
                f"prune.target_var goes with prune.planner=snp, because {self.planner} measures no such share; give "
                "prune.target_units, prune.target_macs or prune.target_params"
            )

    @property
    def target(self) -> Target:
        """What is asked for, in which steps units are kept, and what else could be cut."""
        remedies = remedies_beside(self.streams, self.structures, self.ignore, weighs_blocks=self._weighs_blocks)
        return replace(super().target, remedies=remedies)

    @property
    def _weighs_blocks(self) -> bool:
        """Is the budget one of time, which blocks save, and can they be weighed against units?"""
        return super().target.is_timed and all(self._needs_of_blocks().values())

    @property
    def cut_structures(self) -> tuple[str, ...]:
        """``structures``, with ``"auto"`` decided."""
        return decided(self.structures, weighs_blocks=self._weighs_blocks)

    @property
    def fit(self) -> FitSettings:
        """How weights are fitted."""
        return FitSettings(**{field.name: getattr(self, field.name) for field in fields(FitSettings)})

    @property
    def cut_name(self) -> str:
        """The cut, with ``"auto"`` decided by the target."""
        return super().target.cut if self.cut == "auto" else self.cut

    @property
    def ordering_name(self) -> str:
        """The ordering, with ``"auto"`` decided by the cut."""
        by_cut = "zca" if self.cut_name == "variance" else "output"
        return by_cut if self.ordering == "auto" else self.ordering

    @property
    def code(self) -> tuple[str, ...]:
        """Hashes of the files with ordering, cut and planner, where they are another package's."""
        order, cut = orderings.REGISTRY.code(self.ordering_name), cuts.REGISTRY.code(self.cut_name)
        return (*order, *cut, *PLANNERS.code(self.planner))

    @property
    def needs_sensitivity(self) -> bool:
        """Does the choice of units look at how much the network's output moves?"""
        return self.planner == "snp" and "output" in (self.cut_name, self.ordering_name)

    @property
    def needs_trials(self) -> bool:
        """Are single groups cut on trial?"""
        return self.trials and bool(self.reconstruct) and self.planner == "snp" and self.cut_name == "output"

    @property
    def needs_inputs(self) -> bool:
        """Are calibration samples looked at again, once moments are made?"""
        anew = self.batch_norm == "reestimate"
        return self.is_sequential or self.needs_sensitivity or self.is_tuned or anew

    @property
    def mirrors(self) -> bool | str:
        """``mirrored``, whose auto is for what looks at samples one by one."""
        return self.mirrored if self.needs_inputs or self.mirrored is True else False

    @property
    def moment_gram(self) -> str:
        """What moments are made of: patches only where the choice of units or a joint fit looks at them."""
        patches = self.conv_gram == "patch" and (self.needs_sensitivity or not self.is_sequential)
        return "patch" if patches else "channel"

    @property
    def largest_patch(self) -> int:
        """Columns of a patch Gram beyond which moments are made by channel; a joint fit solves from the moments."""
        # Choosing units needs no more: eliminating 512 channels of 3 x 3 patches one by one takes minutes.
        return 2304 if self.is_sequential else 8192

    def to_json(self) -> dict[str, Any]:
        """All options as JSON values."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        if callable(self.objective):
            plain["objective"] = getattr(self.objective, "__name__", type(self.objective).__name__)
        others = {name: value for name, value in plain.items() if name not in TARGETS}
        others |= {"cut": self.cut_name, "ordering": self.ordering_name, "structures": list(self.cut_structures)}
        return others | {"target": {self.target.kind: self.target.share}}
