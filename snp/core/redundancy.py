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
_SAME = 1e-10
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


def find_copies(gram_UU: Tensor) -> Copies:
    """Copies among units, by their Gram matrix.

    Unit i is c times unit j in every sample when G_ij^2 = G_ii G_jj, and then c = G_ij / G_jj.

    Args:
        gram_UU: shape [U, U], float64; units of several columns by :func:`snp.core.gram.partial_trace`.
    """
    energy = gram_UU.diagonal().clamp_min(0)
    units = torch.arange(len(energy), device=energy.device)
    is_dead = energy <= _DEAD * energy.max()
    product = energy[:, None] * energy
    is_same = (gram_UU.square() >= (1 - _SAME) * product) & ~is_dead & ~is_dead[:, None]
    is_same.fill_diagonal_(True)
    owner = is_same.int().argmax(dim=1)
    owner = torch.where(owner[owner] == owner, owner, units)  # the owner is an original
    is_original = (owner == units) & ~is_dead
    factor = gram_UU[units, owner] / torch.where(is_dead, torch.ones_like(energy), energy)[owner]
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
    if len(copies.last) == 0 or len(copies.originals) == 0:
        return order(statistics)
    found = order(_of_originals(statistics, copies))
    return torch.cat([copies.originals[found], copies.last])


def _of_originals(statistics: GroupStatistics, copies: Copies) -> GroupStatistics:
    def gathered(weight: Tensor, width: int) -> Tensor:
        """Weights [O, U * b] of the originals, those of their copies added."""
        parts = weight.reshape(len(weight), -1, width) * copies.factor.to(weight)[:, None]
        total = torch.zeros_like(parts).index_add_(1, copies.owner, parts)
        return total[:, copies.originals].reshape(len(weight), -1)

    def own(gram: Tensor, width: int) -> Tensor:
        columns = columns_of(copies.originals, width)
        return gram.index_select(0, columns).index_select(1, columns)

    width = statistics.columns_per_unit
    readers = tuple(
        replace(r, gram=own(r.gram, r.columns_per_unit), weighted=gathered(r.weighted, r.columns_per_unit))
        for r in statistics.readers
    )
    outgoing = gathered(statistics.outgoing, width)
    return replace(statistics, gram=own(statistics.gram, width), outgoing=outgoing, readers=readers)
