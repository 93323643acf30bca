"""What does an ordering without any knowledge give?  The control of every comparison."""

import torch
from torch import Tensor

from snp.core.orderings import GroupStatistics

__all__ = ["order"]


def order(statistics: GroupStatistics) -> Tensor:
    """Uniform permutation drawn from ``statistics.generator``."""
    permutation = torch.randperm(statistics.num_units, generator=statistics.generator)
    return permutation.to(statistics.gram.device)
