"""Which units are copies of others, up to a factor, or dead?  Orders put them behind all units that differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from snp.core.gram import partial_trace
from snp.core.orderings import GroupStatistics, descending
from snp.core.subspace import columns_of

__all__ = ["Copies", "copies_last", "find_copies"]

# What two units may differ by in energy, relative to their own: above rounding of float64 sums of float32 values.
_SAME = 1e-12
# Energy, relative to the largest unit's, below which a unit says nothing in float32.
_DEAD = 1e-20


@dataclass(frozen=True)
class Copies:
    """Units that others stand for.

    Attributes:
        originals: units that no earlier unit is a copy of, ascending, shape [D].
        owner: the original that each unit is a copy of, itself for originals and dead units, shape [U].
        factor: how many times its owner each unit is, shape [U], float64; 0 for dead units.
        last: copies, then dead units, in the order in which they are kept, shape [U - D].
    """

    originals: Tensor
    owner: Tensor
    factor: Tensor
    last: Tensor

    def none(self) -> Copies:
        """The same units, none of them a copy."""
        units = torch.arange(len(self.owner), device=self.owner.device)
        return Copies(units, units, torch.ones_like(self.factor), units[:0])

    def with_last(self, order_D: Tensor) -> Tensor:
        """An order of the originals, counted among themselves, with copies and dead units behind it, shape [U]."""
        return torch.cat([self.originals[order_D], self.last])

    def left_out_of(self, statistics: GroupStatistics) -> GroupStatistics:
        """Statistics of the originals, which carry what the readers make of their copies."""
        if len(self.last) == 0:
            return statistics
        width = statistics.columns_per_unit
        readers = tuple(
            replace(
                reader,
                gram=self._own(reader.gram, reader.columns_per_unit),
                weighted=self._gathered(reader.weighted, reader.columns_per_unit),
            )
            for reader in statistics.readers
        )
        outgoing = self._gathered(statistics.outgoing, width)
        return replace(statistics, gram=self._own(statistics.gram, width), outgoing=outgoing, readers=readers)

    def _gathered(self, weight: Tensor, width: int) -> Tensor:
        """Weights [O, U * b] of the originals, those of their copies added."""
        parts = weight.reshape(len(weight), weight.shape[1] // width, width) * self.factor.to(weight)[:, None]
        total = torch.zeros_like(parts).index_add_(1, self.owner, parts)
        return total[:, self.originals].flatten(1)

    def _own(self, gram: Tensor, width: int) -> Tensor:
        columns = columns_of(self.originals, width)
        return gram.index_select(0, columns).index_select(1, columns)

    def damage(self, order_U: Tensor, damage_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Damage with the first k units of an order kept, shape [U + 1]: copies and dead units avoid none.

        Args:
            order_U: of all units.
            damage_of: the same for an order of the originals, counted among themselves: [D] -> [D + 1].
        """
        place = torch.full_like(self.owner, -1)
        place[self.originals] = torch.arange(len(self.originals), device=place.device)
        along = place[order_U]
        counts = torch.cat([along.new_zeros(1), (along >= 0).cumsum(0)])
        return damage_of(along[along >= 0])[counts]


def find_copies(gram_UU: Tensor, num_partitions: int = 1, constant_U: Tensor | None = None) -> Copies:
    """Copies among units, by their Gram matrix.

    Unit i is c times unit j in every sample when G_ij^2 = G_ii G_jj, and then c = G_ij / G_jj. Where that makes all
    units one, the samples are one and say nothing of factors: then only equal units are copies.

    Args:
        gram_UU: shape [U, U], float64; units of several columns by :func:`snp.core.gram.partial_trace`.
        num_partitions: P; copies are looked for inside a partition, because a reader sees one of them.
        constant_U: units that say nothing because their readers can add a constant, bool; they count as dead.
    """
    energy = gram_UU.diagonal().clamp_min(0)
    units = torch.arange(len(energy), device=energy.device)
    partition = units // (len(units) // num_partitions)
    is_dead = energy <= _DEAD * energy.max()
    is_dead = is_dead if constant_U is None else is_dead | constant_U.to(is_dead.device)
    product = energy[:, None] * energy
    is_same = (gram_UU.square() >= (1 - _SAME) * product) & ~is_dead & ~is_dead[:, None]
    if bool(is_same[~is_dead][:, ~is_dead].all()):
        is_same &= energy[:, None] + energy - 2 * gram_UU <= _SAME * energy
    is_same &= partition[:, None] == partition
    is_same.fill_diagonal_(True)
    owner = is_same.int().argmax(dim=1)
    owner = torch.where(owner[owner] == owner, owner, units)  # the owner is an original
    if bool(is_dead.all()):
        is_dead = is_dead & (units > 0)  # one unit stays in any case
    is_original = (owner == units) & ~is_dead
    factor = gram_UU[units, owner] / torch.where(energy > 0, energy, 1.0)[owner]
    copies = descending(energy)[~is_original[descending(energy)]]  # dead units hold no energy and come last
    return Copies(is_original.nonzero().flatten(), owner, torch.where(is_dead, 0.0, factor), copies)


def copies_last(statistics: GroupStatistics, order: Callable[[GroupStatistics], Tensor]) -> Tensor:
    """An order of the units that differ, then copies, then dead units.

    An ordering that scores all units at once finds each of two copies explained by the other, and would let both go
    before anything else. Here it sees one of them, which carries what the readers make of both.

    Args:
        statistics: of a group.
        order: the ordering of units that differ.

    Returns:
        A permutation of all units, shape [U].
    """
    copies = find_copies(partial_trace(statistics.gram, statistics.columns_per_unit))
    return copies.with_last(order(copies.left_out_of(statistics)))
