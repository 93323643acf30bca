"""Which units hold energy of their own once all units are made orthogonal symmetrically?

The unnormalised-ZCA score of arXiv 2405.17506, as we read it: the symmetric orthogonaliser G^-1/2, rescaled to a
unit diagonal, leaves unit i with energy 1 / [(G^-1/2)_ii]^2. Units that depend on others go first, and the others are
scored without them; ``zca_once`` is the score as it is.
"""

from functools import partial

from torch import Tensor

from snp.core.orderings import GroupStatistics, rescored
from snp.core.orderings.zca_once import score
from snp.core.redundancy import copies_last

__all__ = ["order"]


def order(statistics: GroupStatistics) -> Tensor:
    """Permutation by falling ZCA energy of the units that do not depend on better ones, then those that do."""
    return copies_last(statistics, partial(rescored, score=score))
