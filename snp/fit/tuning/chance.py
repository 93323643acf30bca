"""Is what was found on a few samples more than chance?"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["NUM_PARTS", "is_lower"]

# Parts of the samples whose differences say how much of their mean is chance.
NUM_PARTS = 16
# Student's t that one mean in twenty of noise is beyond, on one side, by the number of parts less one, from 1 on.
_STUDENT = (6.31, 2.92, 2.35, 2.13, 2.02, 1.94, 1.89, 1.86, 1.83, 1.81, 1.80, 1.78, 1.77, 1.76, 1.75)


def is_lower(before_P: Tensor, after_P: Tensor, sizes_P: Tensor) -> bool:
    """Did an error fall by more than its differences between parts of the samples allow for (paired t-test)?

    Args:
        before_P: errors, mean over the samples of each part, shape [P].
        after_P: the same of what is to be better.
        sizes_P: samples of the parts.
    """
    if len(sizes_P) < 2:
        return False
    weights = sizes_P.double() / sizes_P.sum() * len(sizes_P)
    fell = (before_P.double() - after_P.double()) * weights
    least = _STUDENT[min(len(fell) - 1, len(_STUDENT)) - 1] * fell.std() / len(fell) ** 0.5
    return bool(torch.isfinite(fell).all() and fell.mean() > least)
