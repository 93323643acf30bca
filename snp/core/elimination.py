"""Which unit can go next at the least cost at the consumers' outputs, when the rest is refitted every time?

Greedy backward elimination, the step of Hassibi's optimal brain surgeon (1993) for whole units
(:mod:`snp.core.downdating`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from snp.core.downdating import Eliminator
from snp.core.repeated import Repeated
from snp.core.statistics import ReaderStatistics

__all__ = ["eliminate"]

_LARGEST = 1e300


def eliminate(readers: Sequence[ReaderStatistics]) -> tuple[Tensor, Tensor]:
    """Remove one unit after the other, the cheapest first.

    Args:
        readers: of the same U units, one per consumer.

    Returns:
        The order of keeping (the last removed first), shape [U], and the squared output error with the first k units
        of it kept, k = 0..U, shape [U + 1], float64, decreasing to 0.
    """
    elimination = _Elimination(readers)
    step = Repeated(elimination.step, readers[0].gram.device)
    left = readers[0].num_units
    while left:
        times = min(left, elimination.steps_per_panel)
        step.run(times)
        left -= times
        if left:
            elimination.catch_up()
    costs = elimination.costs
    error = torch.cat([torch.zeros_like(costs[:1]), costs.clamp_min(0.0).cumsum(0)])
    return elimination.removed.flip(0), error.flip(0)


class _Elimination:
    """Where an elimination stands.

    Attributes:
        costs: of the removals so far, in their order, shape [U], float64.
        removed: the units, likewise.
    """

    def __init__(self, readers: Sequence[ReaderStatistics]) -> None:
        self._eliminators = [Eliminator(each.gram, each.weighted, each.columns_per_unit) for each in readers]
        device, count = readers[0].gram.device, readers[0].num_units
        self._units = torch.arange(count, device=device)  # those not forgotten yet
        self._closed = torch.zeros(count, dtype=torch.float64, device=device)  # infinite at those gone
        self._number = torch.zeros(1, dtype=torch.long, device=device)  # of the next removal
        self.costs, self.removed = torch.zeros_like(self._closed), torch.zeros_like(self._units)

    @property
    def steps_per_panel(self) -> int:
        """Removals before the matrices must catch up."""
        return min(eliminator.steps_per_panel for eliminator in self._eliminators)

    def step(self) -> None:
        """Take the cheapest unit out."""
        total = self._closed.clone()
        for eliminator in self._eliminators:
            # A cost that is no number must not outlive its unit: closed ones stay infinite, and it goes last.
            total += eliminator.costs().nan_to_num(nan=_LARGEST, posinf=_LARGEST)
        cost, place = total.min(dim=0, keepdim=True)
        self.costs.index_copy_(0, self._number, cost)
        self.removed.index_copy_(0, self._number, self._units.index_select(0, place))
        self._number += 1
        self._closed.index_fill_(0, place, torch.inf)
        for eliminator in self._eliminators:
            eliminator.remove(place)

    def catch_up(self) -> None:
        """Bring the matrices up to date, and forget the units that are gone once they are many."""
        is_closed = self._closed != 0
        left = (~is_closed).nonzero().flatten()
        for eliminator in self._eliminators:
            eliminator.catch_up(is_closed)
        if len(left) * 4 < len(is_closed) * 3:
            for eliminator in self._eliminators:
                eliminator.compact(left)
            self._units, self._closed = self._units[left], self._closed[left]
