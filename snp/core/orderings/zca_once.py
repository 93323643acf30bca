"""Which units hold energy of their own once all are made orthogonal symmetrically, scored once, as the paper does?

Of two equal units each is explained by the other, so both stand last, and a cut takes both.
"""

import torch
from torch import Tensor

from snp.core.orderings import GroupStatistics, descending, inverse_spectrum

__all__ = ["order", "score"]


def score(statistics: GroupStatistics) -> Tensor:
    """1 / [(G^-1/2)_ii]^2, for units of several columns the trace of [(G^-1/2)_bb]^-2, shape [U]."""
    inverse: Tensor = torch.linalg.inv(inverse_spectrum(statistics, -0.5))
    return (inverse @ inverse).diagonal(dim1=1, dim2=2).sum(dim=1)


def order(statistics: GroupStatistics) -> Tensor:
    """Permutation by falling ZCA energy."""
    return descending(score(statistics))
