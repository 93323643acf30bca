"""Which units can all the others together not explain, scored once?

Of two equal units each is explained by the other, so both stand last, and a cut takes both.
"""

import torch
from torch import Tensor

from snp.core.orderings import GroupStatistics, descending, inverse_spectrum

__all__ = ["order", "score"]


def score(statistics: GroupStatistics) -> Tensor:
    """1 / (G^-1)_ii, for units of several columns the trace of [(G^-1)_bb]^-1, shape [U]."""
    left: Tensor = torch.linalg.inv(inverse_spectrum(statistics, -1.0))
    return left.diagonal(dim1=1, dim2=2).sum(dim=1)


def order(statistics: GroupStatistics) -> Tensor:
    """Permutation by falling residual."""
    return descending(score(statistics))
