"""Which weights fit the samples of all batches of all processes?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from snp.core.dual_least_squares import SampleEquations
from snp.core.least_squares import MomentEquations, best_of
from snp.core.sums import Sums
from snp.fit.rows import Base, Parts, Rows, is_held_back

__all__ = ["LeastSquares", "Movement", "fitted", "ridges_of"]

_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
# What chance adds to a fit of tokens in one block is the next one's target: held-back ones may ask for next to nothing.
_RIDGES_OF_TOKENS = (*_RIDGES, 1.0, 10.0)
# Samples per column that determine a fit beyond doubt.
_MANY = 8


@dataclass(frozen=True, eq=False)
class Movement:
    """By how much the targets of one batch move, shape [N, O], beside the rows it belongs to."""

    rows: Rows
    target: Tensor


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """A least-squares problem, factorised: in terms of moments, or of samples where there are fewer than columns.

    Attributes:
        equations: of all samples of all processes, at the ridge given or chosen; None where no fit serves held-back
            samples better than the dense weights do.
        base: the dense weights, and what the equations are set up beside.
        count: number of samples of all processes.
        starts: batch -> its first row among the samples; None in terms of moments.
    """

    equations: MomentEquations | SampleEquations | None
    base: Base
    count: int
    starts: dict[int, int] | None = None

    @property
    def is_scarce(self) -> bool:
        """Are the samples too few beside the columns to determine the fit beyond doubt?"""
        return _is_scarce(self.count, self.base.weight)

    def solution(self) -> tuple[Tensor, Tensor]:
        """Weights [O, K] and offset [O]."""
        return self.base.unchanged() if self.equations is None else self.base.changed(*self.equations.solution())

    def moved(self, movements: Iterable[Movement], sums: Sums) -> tuple[Tensor, Tensor]:
        """Weights and offset once the targets have moved by what some of the batches say of all."""
        if self.equations is None:
            return self.base.unchanged()
        if isinstance(self.equations, SampleEquations):
            return self.base.changed(*self._moved_samples(self.equations, movements))
        cross: Tensor | None = None
        total: Tensor | None = None
        count = 0
        for movement in movements:
            product = movement.target.T @ self.base.centred(movement.rows.inputs)
            summed = movement.target.sum(dim=0)
            cross = product.double() if cross is None else cross.add_(product)
            total = summed.double() if total is None else total.add_(summed)
            count += len(movement.target)
        assert cross is not None
        assert total is not None
        factor = self.count / max(sums.number(count), 1.0)
        return self.base.changed(*self.equations.solution(factor * sums.of(cross), factor * sums.of(total)))

    def _moved_samples(self, equations: SampleEquations, movements: Iterable[Movement]) -> tuple[Tensor, Tensor]:
        assert self.starts is not None
        moved: Tensor | None = None
        seen = 0
        for movement in movements:
            if moved is None:
                moved = movement.target.new_zeros(self.count, movement.target.shape[1])
            start = self.starts[movement.rows.batch]
            moved[start : start + len(movement.target)] = movement.target
            seen += len(movement.target)
        assert moved is not None
        return equations.solution(moved * (self.count / max(seen, 1)))


def ridges_of(ridge: float | None, *, of_tokens: bool) -> Sequence[float]:
    """The ridge given, or those that are tried."""
    return (ridge,) if ridge is not None else _RIDGES_OF_TOKENS if of_tokens else _RIDGES


def fitted(
    weight_OK: Tensor, batches: Iterable[Rows], ridges: Sequence[float], affine: bool, sums: Sums
) -> LeastSquares:
    """The problem behind some batches, at the one of the ridges that serves held-back batches best.

    One process with fewer samples than columns keeps the samples; else they become moments.
    """
    # Moments of several processes add up, samples do not. All ask, however few they have: else others wait for them.
    is_alone = sums.num_processes == 1
    waiting: list[Rows] = []
    parts: Parts | None = None
    for rows in batches:
        waiting.append(rows)
        if parts is not None or sum(len(one.inputs) for one in waiting) >= weight_OK.shape[1]:
            parts = parts or Parts(Base.of(weight_OK, waiting[0], sums, affine=affine), torch.float32)
            parts.add(waiting)
            waiting.clear()
    if parts is None and is_alone:
        return _from_samples(Base.of(weight_OK, waiting[0], sums, affine=affine), waiting, ridges, affine)
    if parts is None:
        # Few samples leave directions open that rounding would fill.
        parts = Parts(Base.of(weight_OK, waiting[0], sums, affine=affine), torch.float64)
        parts.add(waiting)
    return _from_moments(parts, ridges, affine, sums)


def _is_scarce(count: int, columns: Tensor) -> bool:
    return count < _MANY * columns.shape[-1]


def _serves(error: Tensor, unfitted: Tensor, num_held: int, columns: Tensor, count: int) -> bool:
    """Is a fit beyond doubt, or does it serve held-back samples better than its start, not just by chance?

    Chance is one in the number held back.
    """
    if not _is_scarce(count, columns):
        return True
    return num_held > 0 and bool(error < unfitted * (1 - 1 / max(num_held, 2)))


def _from_samples(base: Base, batches: Sequence[Rows], ridges: Sequence[float], affine: bool) -> LeastSquares:
    inputs = torch.cat([rows.scaled(base.centred(rows.inputs)) for rows in batches])
    rest = torch.cat([rows.scaled(base.rest_of(rows)) for rows in batches])
    target = torch.cat([rows.scaled(base.rest_of(rows) - base.rest) for rows in batches])
    equations = SampleEquations(None, inputs, target, affine=affine)
    ridge = ridges[0]
    if len(ridges) > 1:
        is_held = torch.cat([torch.full((len(r.inputs),), is_held_back(n)) for n, r in enumerate(batches)])
        is_held = is_held.to(inputs.device)
        ridge, error = best_of(equations.held_back_errors(is_held, ridges), ridges)
        num_held = int(is_held.sum())
        unfitted = (rest[is_held] if num_held else rest).square().sum(dtype=torch.float64)
        if not _serves(error, unfitted, num_held, inputs, len(inputs)):
            return LeastSquares(None, base, len(inputs))
    equations.factor(ridge)
    starts, count = {}, 0
    for rows in batches:
        starts[rows.batch] = count
        count += len(rows.inputs)
    return LeastSquares(equations, base, count, starts)


def _from_moments(parts: Parts, ridges: Sequence[float], affine: bool, sums: Sums) -> LeastSquares:
    found, held = parts.summed(sums)
    count, ridge = found.inputs.count + held.inputs.count, ridges[0]
    if len(ridges) > 1:
        others = held if held.inputs.count else found
        ridge, error = best_of(MomentEquations(None, found, affine=affine).held_back_errors(others, ridges), ridges)
        unfitted = sums.of(parts.unfitted)[int(held.inputs.count > 0)]
        if not _serves(error, unfitted, held.inputs.count, found.inputs.second, count):
            return LeastSquares(None, parts.base, count)
    equations = MomentEquations(None, found + held, affine=affine)
    equations.factor(ridge)
    return LeastSquares(equations, parts.base, count)
