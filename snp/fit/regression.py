"""Which weights fit the samples of all batches of all processes, and how far behind a rectifier?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from snp.core.dual_least_squares import SampleEquations
from snp.core.least_squares import MomentEquations, best_of
from snp.core.rectified import rectified_target
from snp.core.sums import Sums
from snp.fit.rows import Parts, Rows, is_held_back

__all__ = ["LeastSquares", "fitted", "fitted_behind_rectifier"]

_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
# Of least squares on targets that take the rectifier into account; more gain next to nothing.
_ROUNDS = 4


@dataclass(frozen=True, eq=False)
class Movement:
    """By how much the targets of one batch move, shape [N, O], beside the rows it belongs to."""

    rows: Rows
    target: Tensor


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """A least-squares problem, factorised: in terms of moments, or of samples where there are fewer than columns.

    Attributes:
        equations: of all samples of all processes, at the ridge given or chosen.
        count: number of samples of all processes.
        starts: batch -> its first row among the samples; None in terms of moments.
    """

    equations: MomentEquations | SampleEquations
    count: int
    starts: dict[int, int] | None = None

    def solution(self) -> tuple[Tensor, Tensor]:
        """Weights [O, K] and offset [O]."""
        return self.equations.solution()

    def moved(self, movements: Iterable[Movement], sums: Sums) -> tuple[Tensor, Tensor]:
        """Weights and offset once the targets have moved by what some of the batches say of all."""
        if isinstance(self.equations, SampleEquations):
            return self._moved_samples(self.equations, movements)
        cross: Tensor | None = None
        total: Tensor | None = None
        count = 0
        for movement in movements:
            product, summed = movement.target.T @ movement.rows.inputs, movement.target.sum(dim=0)
            cross = product.double() if cross is None else cross.add_(product)
            total = summed.double() if total is None else total.add_(summed)
            count += len(movement.target)
        assert cross is not None
        assert total is not None
        factor = self.count / max(sums.number(count), 1.0)
        return self.equations.solution(factor * sums.of(cross), factor * sums.of(total))

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


def fitted(weight_OK: Tensor, batches: Iterable[Rows], ridge: float | None, affine: bool, sums: Sums) -> LeastSquares:
    """The problem behind some batches; without a ridge it is the one that serves held-back batches best.

    One process with fewer samples than columns keeps the samples; else they become moments.
    """
    # Samples of several processes do not lie side by side; their moments add up. All processes ask the same.
    is_alone = sums.num_processes == 1
    waiting: list[Rows] = []
    parts: Parts | None = None
    for rows in batches:
        waiting.append(rows)
        if parts is not None or sum(len(one.inputs) for one in waiting) >= weight_OK.shape[1]:
            parts = parts or Parts(torch.float32)
            parts.add(waiting)
            waiting.clear()
    if parts is None and is_alone:
        return _from_samples(weight_OK, waiting, ridge, affine)
    if parts is None:
        parts = Parts(torch.float64)  # few samples leave directions open that rounding would fill
        parts.add(waiting)
    return _from_moments(weight_OK, parts, ridge, affine, sums)


def _from_samples(weight_OK: Tensor, batches: Sequence[Rows], ridge: float | None, affine: bool) -> LeastSquares:
    inputs, target = (torch.cat([getattr(rows, name) for rows in batches]) for name in ("inputs", "target"))
    equations = SampleEquations(weight_OK, inputs, target, affine=affine)
    if ridge is None:
        is_held = torch.cat([torch.full((len(r.inputs),), is_held_back(n)) for n, r in enumerate(batches)])
        ridge = best_of(equations.held_back_errors(is_held.to(inputs.device), _RIDGES), _RIDGES)
    equations.factor(ridge)
    starts, count = {}, 0
    for rows in batches:
        starts[rows.batch] = count
        count += len(rows.inputs)
    return LeastSquares(equations, count, starts)


def _from_moments(weight_OK: Tensor, parts: Parts, ridge: float | None, affine: bool, sums: Sums) -> LeastSquares:
    found, held = parts.summed(sums)
    if ridge is None:
        equations = MomentEquations(weight_OK, found, affine=affine)
        ridge = best_of(equations.held_back_errors(held if held.inputs.count else found, _RIDGES), _RIDGES)
    equations = MomentEquations(weight_OK, found + held, affine=affine)
    equations.factor(ridge)
    return LeastSquares(equations, found.inputs.count + held.inputs.count)


def fitted_behind_rectifier(
    problem: LeastSquares,
    batches: Callable[[int, int], Iterable[Rows]],
    scale_O: Tensor,
    bounds: tuple[float, float],
    sums: Sums,
) -> tuple[Tensor, Tensor]:
    """Weights [O, K] and offset [O] whose outputs are right behind a rectifier.

    Every round looks at another part of the batches: how far targets move is a mean over many samples, and all rounds
    together cost one more pass.

    Args:
        problem: its solution is the start.
        batches: (number of a part, number of parts) -> the rows of that part once more; all rows where there are
            fewer batches than parts.
        scale_O: of the affine map in front of the rectifier, shape [O].
        bounds: of the rectifier.
        sums: over all processes.
    """
    weight, shift = problem.solution()
    for part in range(_ROUNDS):
        rows_of_part = batches(part, _ROUNDS)
        movements = (Movement(rows, _movement(rows, weight, shift, scale_O, bounds)) for rows in rows_of_part)
        weight, shift = problem.moved(movements, sums)
    return weight, shift


def _movement(rows: Rows, weight: Tensor, shift: Tensor, scale_O: Tensor, bounds: tuple[float, float]) -> Tensor:
    """How far the targets of rows move when the rectifier behind them is heeded, shape [N, O]."""
    assert rows.dense is not None
    predicted = rows.inputs @ weight.T.to(rows.inputs) + shift.to(rows.inputs)
    return rectified_target(rows.target, predicted, rows.dense, scale_O, *bounds) - rows.target
