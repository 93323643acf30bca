"""Which weights serve best what a rectifier behind the layer lets through?"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from snp.core.rectified import rectified_target
from snp.core.sums import Sums
from snp.fit.regression import LeastSquares, Movement
from snp.fit.rows import Rows

__all__ = ["fitted_behind_rectifier"]

# Of least squares on targets that take the rectifier into account; more gain next to nothing.
_ROUNDS = 4


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
