"""Are a plan's numbers those of the networks?  Counted once more while they run, and from their own tensors."""

from __future__ import annotations

from torch import nn

from snp.graph.batches import Batch
from snp.graph.counting import macs_of_batch
from snp.plan.plan import PruningPlan
from snp.surgery.checks import SelfCheckError

__all__ = ["check_counts"]

_ROUNDING = 1e-4  # of the dense count: costs of heads are shared out in whole numbers


def check_counts(dense: nn.Module, small: nn.Module, batch: Batch, plan: PruningPlan) -> None:
    """Compare the plan's numbers with an independent count; a plan without numbers promises nothing.

    Args:
        dense: in evaluation mode.
        small: the network after surgery, in evaluation mode.
        batch: that the plan was made for.
        plan: with ``macs`` and ``params``.

    Raises:
        SelfCheckError: a number is not that of the network, so a budget may not be met.
    """
    for name, model in (("dense", dense), ("pruned", small)):
        counts = {"parameters": (plan.params, sum(parameter.numel() for parameter in model.parameters()))}
        if plan.macs:
            counts["multiply-accumulates"] = (plan.macs, macs_of_batch(model, batch))
        for what, (planned, found) in counts.items():
            if planned and abs(planned[name] - found) > max(1, _ROUNDING * planned["dense"]):
                raise SelfCheckError(
                    f"the plan says {planned[name]:,} {what} for the {name} network, and {found:,} are counted: some "
                    "layer costs what the analysis does not see (snp.inspect lists the layers), so the budget is not "
                    "what it seems"
                )
