"""Which units can all the others together not explain?  Leave-one-out residual variance 1 / (G^-1)_ii."""

import torch
from torch import Tensor

from snp.core.orderings import GroupStatistics, descending, inverse_spectrum
from snp.core.redundancy import copies_last

__all__ = ["order"]


def order(statistics: GroupStatistics) -> Tensor:
    """Permutation by falling residual; for units of several columns the trace of [(G^-1)_bb]^-1."""
    return copies_last(statistics, _order)


def _order(statistics: GroupStatistics) -> Tensor:
    blocks = inverse_spectrum(statistics, -1.0)
    return descending(torch.linalg.inv(blocks).diagonal(dim1=1, dim2=2).sum(dim=1))
