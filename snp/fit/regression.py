"""Which weights fit the samples of all batches of all processes, and how far behind a rectifier?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from snp.core.gram import CrossMoments
from snp.core.reconstruct import refit
from snp.core.rectified import rectified_target
from snp.core.ridge import choose_ridge
from snp.core.sums import Sums

__all__ = ["HOLD_BACK_ONE_IN", "LeastSquares", "Rows", "fitted", "fitted_behind_rectifier"]

# One batch in so many is held back while the ridge is chosen.
HOLD_BACK_ONE_IN = 4
_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
# Of least squares on targets that take the rectifier into account; more gain next to nothing.
_ROUNDS = 4


@dataclass(frozen=True, eq=False)
class Rows:
    """Samples of one batch.

    Attributes:
        inputs: shape [N, K].
        target: what the layer should give out without its bias, shape [N, O].
        dense: pre-activations of the dense network at a rectifier behind the layer, shape [N, O]; None without one.
    """

    inputs: Tensor
    target: Tensor
    dense: Tensor | None = None


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """A least-squares problem with its solution.

    Attributes:
        weight: that the solution decays to, shape [O, K].
        moments: of all samples of all processes.
        ridge: given or chosen.
        affine: is an offset fitted, too?
    """

    weight: Tensor
    moments: CrossMoments
    ridge: float
    affine: bool

    def solution(self) -> tuple[Tensor, Tensor]:
        """Weights [O, K] and offset [O]."""
        return refit(self.weight, self.moments, self.ridge, affine=self.affine)


def fitted(weight_OK: Tensor, batches: Iterable[Rows], ridge: float | None, affine: bool, sums: Sums) -> LeastSquares:
    """The problem behind some batches; without a ridge it is the one that serves held-back batches best."""
    parts: list[CrossMoments | None] = [None, None]
    for batch, rows in enumerate(batches):
        held_back = batch % HOLD_BACK_ONE_IN == HOLD_BACK_ONE_IN - 1
        total, part = parts[held_back], CrossMoments.of(rows.inputs, rows.target, torch.float32)
        parts[held_back] = part if total is None else total + part
    first, second = parts
    assert first is not None
    # All processes reduce the same tensors, whether or not they themselves have enough batches to hold one back.
    found, held = sums.cross_moments(first), sums.cross_moments(first.zeros_like() if second is None else second)
    if ridge is None:
        ridge = choose_ridge(weight_OK, found, held if held.inputs.count else found, _RIDGES, affine=affine)
    return LeastSquares(weight_OK, found + held, ridge, affine)


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
        cross, total = torch.zeros_like(problem.moments.cross), torch.zeros_like(problem.moments.target)
        count = 0
        for rows in batches(part, _ROUNDS):
            moved = _movement(rows, weight, shift, scale_O, bounds)
            cross += (moved.T @ rows.inputs).double()
            total += moved.sum(dim=0).double()
            count += len(moved)
        factor = problem.moments.inputs.count / max(sums.number(count), 1.0)
        moments = replace(
            problem.moments,
            cross=problem.moments.cross + factor * sums.of(cross),
            target=problem.moments.target + factor * sums.of(total),
        )
        weight, shift = replace(problem, moments=moments).solution()
    return weight, shift


def _movement(rows: Rows, weight: Tensor, shift: Tensor, scale_O: Tensor, bounds: tuple[float, float]) -> Tensor:
    """How far the targets of rows move when the rectifier behind them is heeded, shape [N, O]."""
    assert rows.dense is not None
    predicted = rows.inputs @ weight.T.to(rows.inputs) + shift.to(rows.inputs)
    return rectified_target(rows.target, predicted, rows.dense, scale_O, *bounds) - rows.target
