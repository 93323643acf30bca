"""Which units carry the most energy, whatever the others do?"""

from torch import Tensor

from snp.core.orderings import GroupStatistics, descending

__all__ = ["order"]


def order(statistics: GroupStatistics) -> Tensor:
    """Permutation by falling energy (the diagonal of the Gram matrix, summed over a unit's columns)."""
    return descending(statistics.gram.diagonal().reshape(statistics.num_units, -1).sum(dim=1))
