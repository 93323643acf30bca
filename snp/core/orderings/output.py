"""Which units do the consumers' outputs miss most?  Greedy backward elimination with a refit after every removal."""

from __future__ import annotations

from torch import Tensor

from snp.core.elimination import eliminate
from snp.core.orderings import GroupStatistics
from snp.core.redundancy import copies_last

__all__ = ["order"]


def order(statistics: GroupStatistics) -> Tensor:
    """Permutation in which the unit whose removal costs least at the outputs of all consumers goes last."""
    return copies_last(statistics, _order)


def _order(statistics: GroupStatistics) -> Tensor:
    return eliminate(statistics.readers)[0]
