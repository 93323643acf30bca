"""Which units can all the others together not explain?  Leave-one-out residual variance 1 / (G^-1)_ii.

Units that depend on others go first, and the others are scored without them; ``residual_once`` is the score as it is.
"""

from functools import partial

from torch import Tensor

from snp.core.orderings import GroupStatistics, rescored
from snp.core.orderings.residual_once import score
from snp.core.redundancy import copies_last

__all__ = ["order"]


def order(statistics: GroupStatistics) -> Tensor:
    """Permutation by falling residual of the units that do not depend on better ones, then those that do."""
    return copies_last(statistics, partial(rescored, score=score))
