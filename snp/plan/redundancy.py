"""Which units of a group say nothing that others do not say?  Dead ones and exact copies, whatever the samples are.

Few samples let many units look dependent by chance, and shrinkage against that hides those that truly are. Units that
are zero, or equal, on all samples are found beforehand: they are cut before any other, and the weights that read a
copy count for the unit that stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from snp.core.gram import partial_trace
from snp.core.orderings import GroupStatistics, ReaderStatistics, interleaved
from snp.core.subspace import columns_of

__all__ = ["Redundancy", "redundancy_of"]

# Squared, relative to the energy of the units themselves, or of the group's largest.
_EQUAL, _DEAD = 1e-12, 1e-24


@dataclass(frozen=True, eq=False)
class Redundancy:
    """Units that can go without a trace.

    Attributes:
        same: for every unit the first one that is equal to it, itself for most, shape [U].
        is_dead: units without activity at any reader, shape [U].
    """

    same: Tensor
    is_dead: Tensor

    @property
    def distinct(self) -> Tensor:
        """Units that are left, ascending, shape [D], D >= 1."""
        stays = ~self.is_dead & (self.same == torch.arange(len(self.same), device=self.same.device))
        stays[0] |= not bool(stays.any())
        return stays.nonzero().flatten()

    def reduced(self, statistics: GroupStatistics) -> GroupStatistics:
        """Statistics of the distinct units, whose readers' weights take over those of their copies."""
        if len(self.distinct) == len(self.same):
            return statistics
        readers = tuple(
            ReaderStatistics(
                self._selected(self._selected(reader.gram, reader.columns_per_unit).T, reader.columns_per_unit).T,
                self._summed(reader.weighted, reader.columns_per_unit),
                reader.columns_per_unit,
            )
            for reader in statistics.readers
        )
        width = statistics.columns_per_unit
        gram = self._selected(self._selected(statistics.gram, width).T, width).T
        return replace(statistics, gram=gram, outgoing=self._summed(statistics.outgoing, width), readers=readers)

    def _selected(self, matrix: Tensor, width: int) -> Tensor:
        return matrix.index_select(1, columns_of(self.distinct, width))

    def _summed(self, weights: Tensor, width: int) -> Tensor:
        """Columns of copies added to those of the units that stay for them, shape [O, D * b]."""
        parts = weights.reshape(len(weights), len(self.same), width)
        return self._selected(torch.zeros_like(parts).index_add_(1, self.same, parts).flatten(1), width)

    def ordered(self, order_D: Tensor, energy_U: Tensor, num_partitions: int) -> Tensor:
        """All units: the distinct ones by an order of theirs, then copies, then dead ones; even over partitions."""
        stays = self.distinct
        rest = torch.ones(len(self.same), dtype=torch.bool, device=stays.device)
        rest[stays] = False
        score = torch.where(self.is_dead, -1.0, energy_U)
        others = torch.argsort(score, descending=True, stable=True)
        return interleaved(torch.cat([stays[order_D], others[rest[others]]]), num_partitions)

    def damage(self, order_U: Tensor, damage_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Damage with the first k units of an order kept, shape [U + 1]; redundant ones do none.

        Args:
            order_U: of all units.
            damage_of: the same for an order of the distinct units, counted among themselves: [D] -> [D + 1].
        """
        place = torch.full_like(self.same, -1)
        place[self.distinct] = torch.arange(len(self.distinct), device=place.device)
        along = place[order_U]
        counts = torch.cat([along.new_zeros(1), (along >= 0).cumsum(0)])
        return damage_of(along[along >= 0])[counts]


def redundancy_of(statistics: GroupStatistics, num_partitions: int, *, look: bool = True) -> Redundancy:
    """Dead units and exact copies of a group.

    Args:
        statistics: nothing shrunk.
        num_partitions: copies are only looked for within a partition, because layers read one each.
        look: False finds nothing, for orderings that do not claim to see redundancy.
    """
    size, device = statistics.num_units, statistics.gram.device
    units = torch.arange(size, device=device)
    is_dead, is_equal = (torch.full((size,), look, device=device), torch.full((size, size), look, device=device))
    for reader in statistics.readers if look else ():
        gram = partial_trace(reader.gram, reader.columns_per_unit)
        energy = gram.diagonal()
        is_dead &= energy <= _DEAD * energy.max().clamp_min(torch.finfo(energy.dtype).tiny)
        both = energy[:, None] + energy
        is_equal &= both - 2 * gram <= _EQUAL * both
    partition = units // (size // num_partitions)
    is_equal &= (partition[:, None] == partition) & (units <= units[:, None])
    is_equal |= torch.eye(size, dtype=torch.bool, device=device)
    return Redundancy(is_equal.int().argmax(dim=1), is_dead)
