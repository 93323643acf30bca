"""Which unit can go next at the least cost at the consumers' outputs, when the rest is refitted every time?

Greedy backward elimination, the step of Hassibi's optimal brain surgeon (1993) for whole units
(:mod:`snp.core.downdating`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from snp.core.downdating import Eliminator
from snp.core.statistics import ReaderStatistics

__all__ = ["eliminate"]


def eliminate(readers: Sequence[ReaderStatistics]) -> tuple[Tensor, Tensor]:
    """Remove one unit after the other, the cheapest first.

    Args:
        readers: of the same U units, one per consumer.

    Returns:
        The order of keeping (the last removed first), shape [U], and the squared output error with the first k units
        of it kept, k = 0..U, shape [U + 1], float64, decreasing to 0.
    """
    eliminators = [Eliminator(reader.gram, reader.weighted, reader.columns_per_unit) for reader in readers]
    device = readers[0].gram.device
    units = torch.arange(readers[0].num_units, device=device)  # those not forgotten yet
    closed = torch.zeros(len(units), dtype=torch.float64, device=device)  # infinite at those gone
    removed, costs = [], []
    for _ in range(len(units)):
        if any(eliminator.is_full for eliminator in eliminators):
            left = (closed == 0).nonzero().flatten()
            for eliminator in eliminators:
                eliminator.catch_up(closed != 0)
            if len(left) * 4 < len(units) * 3:
                for eliminator in eliminators:
                    eliminator.compact(left)
                units, closed = units[left], closed[left]
        cost, place = _cheapest(eliminators, closed)
        costs.append(cost)
        removed.append(units.index_select(0, place))
        closed.index_fill_(0, place, torch.inf)
        for eliminator in eliminators:
            eliminator.remove(place)
    error = torch.cat([torch.zeros_like(costs[0]), torch.cat(costs).clamp_min(0.0).cumsum(0)])
    return torch.cat(removed).flip(0), error.flip(0)


def _cheapest(eliminators: Sequence[Eliminator], closed: Tensor) -> tuple[Tensor, Tensor]:
    """Cost and place, both of shape [1], of the unit that costs least."""
    total = closed.clone()
    for eliminator in eliminators:
        total += eliminator.costs()
    cost, place = total.min(dim=0, keepdim=True)
    return cost, place
