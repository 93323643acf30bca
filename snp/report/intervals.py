"""How sure is an accuracy that was counted on a few test samples, and a mean over a few seeds?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

__all__ = ["mean_and_spread", "standard_error", "wilson"]

_QUANTILE = 1.959964  # of a normal distribution, two sides, 95 %


def wilson(percent: float, num_samples: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy by the score test (Wilson 1927), which stays inside [0, 100].

    Args:
        percent: share of right answers, in [0, 100].
        num_samples: that were counted, at least 1.

    Returns:
        Its lower and upper end, percent.
    """
    share, squared = percent / 100, _QUANTILE**2
    centre = (share + squared / (2 * num_samples)) / (1 + squared / num_samples)
    spread = share * (1 - share) / num_samples + squared / (4 * num_samples**2)
    half = _QUANTILE * math.sqrt(spread) / (1 + squared / num_samples)
    # At 0 and 100 % an end is the share itself, which rounding may miss.
    return min(100 * max(0.0, centre - half), percent), max(100 * min(1.0, centre + half), percent)


def standard_error(one: float, other: float, num_samples: int) -> float:
    """Of the difference of two accuracies that were counted on so many samples each, percent.

    As of separate samples: on the same ones, on which two networks mostly agree, it is smaller. One more right and one
    more wrong answer are counted, so that none wrong is not known to be none ever (Agresti and Caffo 2000).
    """
    shares = [(percent / 100 * num_samples + 1) / (num_samples + 2) for percent in (one, other)]
    return 100 * math.sqrt(sum(share * (1 - share) for share in shares) / (num_samples + 2))


def mean_and_spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, smallest and largest: all there is to say of three seeds."""
    return statistics.fmean(values), min(values), max(values)
