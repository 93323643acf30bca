"""Does swapping a kept unit for a cut one leave the consumers' outputs better off?  Local search over sets of units.

As OSSCAR (arXiv 2403.12983) does: the squared error at the outputs after a refit is known in closed form for every
set, and taking one unit out or in is one rank-b update (a sweep, i.e. one Gauss-Jordan step) of the matrix that holds
the inverse Gram matrix of the set, the Schur complement of the rest, fitted weights and what they leave unexplained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from snp.core.elimination import eliminate
from snp.core.statistics import ReaderStatistics

__all__ = ["SweptGram", "local_search"]

# Keeps pivots of dead and dependent units away from zero; relative to the mean diagonal.
_RIDGE = 1e-6
# A swap has to win more than rounding would.
_LEAST_GAIN = 1e-9


class SweptGram:
    """One consumer's Gram matrix and cross products, swept on the units that are in the set.

    Args:
        gram: shape [U * b, U * b], float64.
        weighted: the consumer's weights, shape [O, U * b].
        columns_per_unit: b.
    """

    def __init__(self, gram: Tensor, weighted: Tensor, columns_per_unit: int) -> None:
        self._width = columns_per_unit
        gram = gram.double()
        scale = torch.clamp_min(gram.diagonal().mean() * _RIDGE, torch.finfo(gram.dtype).tiny)
        regular = gram + scale * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        self._matrix = torch.cat([regular, gram @ weighted.double().T], dim=1)  # [U * b, U * b + O]

    def stakes(self) -> Tensor:
        """What each unit is worth in squared output error, shape [U]: gained if it comes in, lost if it goes."""
        width, num_columns = self._width, len(self._matrix)
        num_units = num_columns // width
        square = self._matrix[:, :num_columns].reshape(num_units, width, num_units, width)
        blocks = square.diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # [U, b, b]
        cross = self._matrix[:, num_columns:].reshape(num_units, width, -1)
        inverted: Tensor = blocks.reciprocal() if width == 1 else torch.linalg.inv(blocks)
        return (inverted.transpose(1, 2) * (cross @ cross.transpose(1, 2))).sum(dim=(1, 2))

    def sweep(self, unit: int) -> None:
        """Take a unit into the set, or out of it if it is in."""
        own = slice(unit * self._width, (unit + 1) * self._width)
        pivot = torch.linalg.inv(self._matrix[own, own])
        rows, columns = pivot @ self._matrix[own], self._matrix[:, own].clone()
        self._matrix.addmm_(columns, rows, alpha=-1)
        self._matrix[own] = rows
        self._matrix[:, own] = -columns @ pivot
        self._matrix[own, own] = pivot


def local_search(
    readers: Sequence[ReaderStatistics],
    num_kept: int,
    start: Tensor | None = None,
    *,
    num_tries: int = 8,
    max_swaps: int = 1000,
) -> tuple[Tensor, float]:
    """A set of units that no swap with one of its cheapest members improves.

    Args:
        readers: of the same U units, one per consumer.
        num_kept: K, in 1..U.
        start: the set to begin with, shape [K]; None for that of greedy backward elimination.
        num_tries: how many of the units that are least missed are tried at every step.
        max_swaps: when to stop in any case.

    Returns:
        The set, ascending, shape [K], and by how much the squared output error fell from the start's, >= 0.
    """
    num_units = readers[0].num_units
    assert 1 <= num_kept <= num_units, (num_kept, num_units)
    chosen = eliminate(readers)[0][:num_kept] if start is None else start
    swept = [SweptGram(reader.gram, reader.weighted, reader.columns_per_unit) for reader in readers]
    is_kept = torch.zeros(num_units, dtype=torch.bool, device=readers[0].gram.device)
    is_kept[chosen] = True
    for unit in chosen.tolist():
        _sweep(swept, unit)
    gained = 0.0
    for _ in range(max_swaps if num_kept < num_units else 0):
        gain = _swap(swept, is_kept, num_tries)
        if gain is None:
            break
        gained += gain
    return is_kept.nonzero().flatten(), gained


def _swap(swept: list[SweptGram], is_kept: Tensor, num_tries: int) -> float | None:
    """Make the first swap that pays, in place; None if none of those tried does."""
    stakes = _stakes(swept)
    candidates = torch.where(is_kept, stakes, torch.inf).argsort()[: min(num_tries, int(is_kept.sum()))]
    for leaving in candidates.tolist():
        _sweep(swept, leaving)
        gains = _stakes(swept)
        entering = int(torch.where(is_kept, -torch.inf, gains).argmax())
        gain = float(gains[entering] - gains[leaving])
        if gain > _LEAST_GAIN * float(gains[entering]):
            _sweep(swept, entering)
            is_kept[leaving], is_kept[entering] = False, True
            return gain
        _sweep(swept, leaving)
    return None


def _stakes(swept: list[SweptGram]) -> Tensor:
    return torch.stack([one.stakes() for one in swept]).sum(dim=0)


def _sweep(swept: list[SweptGram], unit: int) -> None:
    for one in swept:
        one.sweep(unit)
