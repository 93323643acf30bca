"""Which units do the readers weigh most?  The sum of absolute outgoing weights."""

from torch import Tensor

from snp.core.orderings import GroupStatistics, descending

__all__ = ["order"]


def order(statistics: GroupStatistics) -> Tensor:
    """Permutation by falling sum of absolute outgoing weights."""
    return descending(statistics.outgoing.double().abs().sum(dim=0).reshape(statistics.num_units, -1).sum(dim=1))
