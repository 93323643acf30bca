"""How is a predicted curve of damages brought in line with a few measured ones?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["corrected"]

# In nats per sample: damages below are noise, whether predicted or measured.
_FLOOR = 1e-6


def corrected(damage: Tensor, measured: Mapping[int, float]) -> Tensor:
    """The curve times the factor by which measurements differ from it, at all numbers of kept units.

    Between measurements the logarithm of the factor is interpolated over the number of kept units; outside it stays.

    Args:
        damage: predicted with the first k units kept, k = 0..U, decreasing to 0, shape [U + 1].
        measured: number of kept units -> damage there; may be empty.

    Returns:
        Shape [U + 1], float64, still decreasing to 0.
    """
    if not measured:
        return damage
    counts = torch.tensor(sorted(measured), dtype=torch.float64)
    found = torch.tensor([measured[int(k)] for k in counts], dtype=torch.float64).clamp_min(0.0) + _FLOOR
    predicted = damage.double().cpu()[counts.long()] + _FLOOR
    factors = _interpolated((found / predicted).log(), counts, len(damage)).exp()
    curve = damage.double().cpu() * factors
    # Fewer units cannot do less damage: a dip would be taken for a bargain.
    return curve.flip(0).cummax(dim=0).values.flip(0).to(damage.device)


def _interpolated(values: Tensor, counts: Tensor, length: int) -> Tensor:
    """Piecewise linear through (counts, values), constant outside, at 0..length - 1."""
    at = torch.arange(length, dtype=torch.float64)
    if len(counts) == 1:
        return values.expand(length)
    right = torch.searchsorted(counts, at).clamp(1, len(counts) - 1)
    left = right - 1
    share = ((at - counts[left]) / (counts[right] - counts[left])).clamp(0.0, 1.0)
    return values[left] + share * (values[right] - values[left])
