"""Which reductions mix branches, and not units?  Selective kernels, which weigh branches channel by channel."""

from __future__ import annotations

from torch import Tensor, fx

from snp.graph.labels import distinct
from snp.graph.operators import constant_along
from snp.graph.tracer import Tracer

__all__ = ["go_together_along"]


def go_together_along(tracer: Tracer, node: fx.Node, shadow: Tensor, over: list[int]) -> bool:
    """Tie the branches that are mixed along some dimensions; False where it is units that are mixed.

    Branches that lie one after the other, each with all units, and are added up or weighed against each other
    (selective kernels), go together as those that meet in a sum. A norm that is written out mixes neighbours.
    """
    varying = [dim for dim in over if not constant_along(tracer, shadow, dim)]
    if not varying:
        return True
    along_others = [dim for dim in range(shadow.ndim) if dim not in over and not constant_along(tracer, shadow, dim)]
    if tracer.whole_heads or not along_others or min(along_others) < max(varying):
        return False
    for dim in varying:
        tracer.labels.tie(shadow.narrow(dim, 0, 1).expand_as(shadow), shadow)
    if tracer.streams.is_residual([[branch] for branch in _stacked(node.args[0])]):
        tracer.labels.mark_stream(shadow)
    return len(distinct(tracer.labels.roots(shadow))) > 1


def _stacked(value: object) -> list[fx.Node]:
    """What a node stacks; nothing for all others."""
    if not isinstance(value, fx.Node) or "aten.stack" not in str(value.target):
        return []
    parts = value.args[0]
    return [part for part in parts if isinstance(part, fx.Node)] if isinstance(parts, (list, tuple)) else []
