"""Which units hold energy of their own once all units are made orthogonal symmetrically?

The unnormalised-ZCA score of arXiv 2405.17506, as we read it: the symmetric orthogonaliser G^-1/2, rescaled to a
unit diagonal, leaves unit i with energy 1 / [(C^-1/2)_ii]^2.
"""

import torch
from torch import Tensor

from snp.core.orderings import GroupStatistics, descending, inverse_spectrum
from snp.core.redundancy import copies_last

__all__ = ["order"]


def order(statistics: GroupStatistics) -> Tensor:
    """Permutation by falling ZCA energy; for units of several columns the trace of [(C^-1/2)_bb]^-2."""
    return copies_last(statistics, _order)


def _order(statistics: GroupStatistics) -> Tensor:
    blocks = inverse_spectrum(statistics, -0.5)
    inverse = torch.linalg.inv(blocks)
    return descending((inverse @ inverse).diagonal(dim1=1, dim2=2).sum(dim=1))
