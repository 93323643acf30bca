"""How much of the network is to be left, of what, and in which steps?"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from snp.core.budget import Target
from snp.core.options import STRICT, named, option
from snp.core.rounding import Rounding

__all__ = ["TARGETS", "TargetSettings"]


TARGETS = ("target_var", "target_units", "target_macs", "target_params", "target_latency")


@named(lambda given: "prune")
@dataclass(frozen=True, config=STRICT, kw_only=True)
class TargetSettings:
    """What is asked for; at most one target is given, none means half of the MACs."""

    target_var: float | None = option(None, "cumulative variance that every group keeps, with cut=variance", gt=0, le=1)
    target_units: float | None = option(None, "share of units that every group keeps, with cut=uniform", gt=0, le=1)
    target_macs: float | None = option(
        None, "share of the dense network's multiply-accumulates that is left", gt=0, le=1
    )
    target_params: float | None = option(None, "share of the dense network's parameters that is left", gt=0, le=1)
    target_latency: float | None = option(
        None, "share of the dense forward pass's time that is left, by layer times measured here", gt=0, le=1
    )
    tilt: bool = option(
        True,
        "a budget (target_macs, target_params or target_latency) is tilted along the depth: whole allocations are "
        "fitted on some samples and judged by others (with trials, calibration=sequential and 128 samples or more)",
    )
    latency_batch: int = option(8, "samples per pass, where passes are timed for a plan or against each other", ge=1)
    latency_threads: int = option(1, "CPU threads of these passes", ge=1)
    count_embeddings: bool = option(
        False, "target_params counts embeddings and heads tied to them, too (language models)"
    )
    round_to: Annotated[int, Field(ge=1)] | Literal["auto"] = option(
        8,
        "kept units are a multiple of this in wide groups; 1 switches it off; auto: what pays on this device in this "
        "precision, measured",
    )
    round_from: int | None = option(
        None,
        "units of a wide group at least; null: 16 times round_to, with auto what pays. ONNX Runtime likes 16, see "
        "docs/export.md",
        ge=1,
    )

    @property
    def target(self) -> Target:
        """The target given, else half of the multiply-accumulates, and in which steps units are kept."""
        given = next((name for name in TARGETS if getattr(self, name)), None)
        target = Target(counts_embeddings=self.count_embeddings, rounding=self.rounding)
        return replace(target, kind=given.removeprefix("target_"), share=getattr(self, given)) if given else target

    @property
    def rounding(self) -> Rounding:
        """In which steps units are kept; single ones where that has yet to be measured."""
        return Rounding(1 if self.round_to == "auto" else self.round_to, self.round_from)
