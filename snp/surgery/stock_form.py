"""How does a small network get the classes back that the dense one was made of?"""

from __future__ import annotations

from torch import nn

from snp.core.rotations import level_axis
from snp.graph.batches import Batch
from snp.graph.modes import copy_in_modes
from snp.graph.plain_experts import restacked
from snp.graph.stream_norms import stream_norms_in, with_stock_norms
from snp.plan.plan import PruningPlan
from snp.surgery.checks import SelfCheckError, allowed, compared
from snp.surgery.folded_norms import norms_of, turned
from snp.surgery.surgery import named_tensors

__all__ = ["checked_stock_form", "in_stock_form"]


def in_stock_form(small: nn.Module, plan: PruningPlan) -> nn.Module:
    """The small network, which it is changed for, with stacked experts and stock norms in the place of plain ones.

    LayerNorm takes away the direction in which all units are equal; here it is the first one of all.

    Args:
        small: cut by the plan.
        plan: knows the streams.
    """
    for group in (decision.group for decision in plan.groups if decision.group.kind == "width"):
        norms = norms_of(small, group)
        if any(norm.is_layer_norm for norm in norms.values()):
            size = len(next(iter(norms.values())).weight)
            tensors = named_tensors(small)
            for name, value in turned(small, group, level_axis(size)).items():
                tensors[name].data.copy_(value)
    return with_stock_norms(restacked(small))


def checked_stock_form(small: nn.Module, batch: Batch, plan: PruningPlan) -> nn.Module:
    """The same, compared in double precision before the turned weights are rounded.

    Raises:
        SelfCheckError: stock norms compute something else.
    """
    if stream_norms_in(small):
        wide = copy_in_modes(small).double()
        found, in_double = compared(wide, in_stock_form(copy_in_modes(wide), plan), batch, {})
        if not found.size <= (tolerance := allowed(wide, None, in_double=in_double)):
            raise SelfCheckError(
                f"stock norms of the smaller width differ at {found.place} by {found.size:.2e} of the spread (allowed "
                f"{tolerance:.0e})"
            )
    return in_stock_form(small, plan)
