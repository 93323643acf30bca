"""What remains of each unit once the units ordered before it are known?

Subspace Node Pruning (arXiv 2405.17506), section 3: P G P^T = L D L^T with the Gram matrix G (there its mean, C_xx) and
L unit lower triangular gives orthogonal rows X~ = L^-1 P X, and D_i is the energy of unit i that the units before it
cannot explain.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Subspace", "columns_of", "factorize", "ldl"]

_PANEL = 64
# A pivot below this fraction of its own diagonal entry is rounding error: the column is a combination of earlier ones.
_DEPENDENT = 1e-12
# Far enough above it that the other algorithm's rounding would not decide otherwise.
_CLEAR = 1e-10


@dataclass(frozen=True)
class Subspace:
    """An ordered Gram matrix, orthogonalised.

    Attributes:
        order: unit indices, most important first, shape [U], int64.
        unit_lower: L over columns in that order, shape [U * b, U * b], float64.
        pivots: D over columns in that order, shape [U * b], float64, >= 0.
        residual: energy of each unit that the units ordered before it cannot explain, shape [U], float64, >= 0:
            the trace of its block Schur complement (D itself when a unit is one column).
    """

    order: Tensor
    unit_lower: Tensor
    pivots: Tensor
    residual: Tensor

    def kept_variance(self) -> Tensor:
        """Share of the summed residuals that the first k units hold, k = 1..U, shape [U], in [0, 1]."""
        total = self.residual.sum()
        if float(total) <= 0.0:
            return torch.ones_like(self.residual)
        return self.residual.cumsum(0) / total


def columns_of(units: Tensor, columns_per_unit: int) -> Tensor:
    """Column indices of units when each owns b neighbouring columns: [K] -> [K * b]."""
    offsets = torch.arange(columns_per_unit, device=units.device)
    return (units[:, None] * columns_per_unit + offsets).reshape(-1)


def ldl(gram_CC: Tensor) -> tuple[Tensor, Tensor]:
    """LDL^T of a positive semidefinite matrix, of any rank.

    A column that the earlier ones explain completely gets pivot 0 and no entries below its diagonal, so that
    dead, duplicate and dependent units need no special care afterwards.

    Args:
        gram_CC: symmetric, shape [C, C]; computed in float64.

    Returns:
        L, unit lower triangular, shape [C, C], and D, shape [C], >= 0, float64, with L diag(D) L^T = gram.
    """
    regular = _of_regular(gram_CC.double())
    return _of_any_rank(gram_CC) if regular is None else regular


def _of_regular(gram_CC: Tensor) -> tuple[Tensor, Tensor] | None:
    """The same by Cholesky; None where a pivot comes near what counts as dependent."""
    lower, info = torch.linalg.cholesky_ex(gram_CC)
    roots = lower.diagonal()
    is_clear = (roots.square() > _CLEAR * gram_CC.diagonal()).all() & (info == 0)
    if not bool(is_clear):
        return None
    return lower / roots, roots.square()


def _of_any_rank(gram_CC: Tensor) -> tuple[Tensor, Tensor]:
    """Panel by panel, each with a look at its pivots; one question to the device per panel."""
    work = gram_CC.double().clone()
    size = work.shape[0]
    lower = torch.eye(size, dtype=torch.float64, device=work.device)
    pivots = torch.zeros(size, dtype=torch.float64, device=work.device)
    energy = work.diagonal().clone()  # before anything is explained
    for start in range(0, size, _PANEL):
        panel, rest = slice(start, min(start + _PANEL, size)), slice(start + _PANEL, size)
        left = work[panel, panel].diagonal()
        if bool((left <= energy[panel] * _DEPENDENT).all()):
            continue  # all of the panel depends on what came before
        lower[panel, panel], pivots[panel] = _of_panel(work[panel, panel], energy[panel])
        # Rows below hold L D of the panel once its L is divided out; columns without a pivot explain nothing.
        scaled = torch.linalg.solve_triangular(
            lower[panel, panel].T, work[rest, panel], upper=True, left=False, unitriangular=True
        )
        found = torch.where(pivots[panel] > 0, scaled / pivots[panel], 0.0)
        lower[rest, panel] = found
        work[rest, rest].addmm_(found * pivots[panel], found.T, alpha=-1)
    return lower, pivots


def _of_panel(work: Tensor, energy: Tensor) -> tuple[Tensor, Tensor]:
    """L and D of a panel's own square, of any rank, shape [P, P]."""
    factor, info = torch.linalg.cholesky_ex(work)
    roots = factor.diagonal()
    if bool((roots.square() > _CLEAR * energy).all() & (info == 0)):
        return factor / roots, roots.square()
    device, work = work.device, work.cpu().clone()  # small steps, which another device would only wait for
    lower, smallest = torch.eye(len(work), dtype=work.dtype), energy.cpu() * _DEPENDENT
    pivots = torch.zeros(len(work), dtype=work.dtype)
    for j in range(len(work)):
        if float(work[j, j]) <= float(smallest[j]):
            continue
        pivots[j] = work[j, j]
        lower[j + 1 :, j] = work[j + 1 :, j] / pivots[j]
        work[j + 1 :, j + 1 :].addr_(lower[j + 1 :, j], work[j, j + 1 :], alpha=-1)
    return lower.to(device), pivots.to(device)


def factorize(gram_CC: Tensor, order: Tensor, columns_per_unit: int = 1) -> Subspace:
    """Orthogonalise units in the order given (unnormalised Gram-Schmidt on the Gram matrix).

    Args:
        gram_CC: Gram matrix of the units' columns, a unit's b columns side by side, shape [U * b, U * b].
        order: permutation of the units, most important first, shape [U].
        columns_per_unit: b.
    """
    columns = columns_of(order, columns_per_unit)
    ordered = gram_CC.double().index_select(0, columns).index_select(1, columns)
    lower, pivots = ldl(ordered)
    if columns_per_unit == 1:
        return Subspace(order, lower, pivots, pivots)
    num_units = len(order)
    blocks = lower.reshape(num_units, columns_per_unit, num_units, columns_per_unit)
    diagonal_blocks = blocks.diagonal(dim1=0, dim2=2)  # [b, b, U]
    energy = diagonal_blocks.square() * pivots.reshape(num_units, columns_per_unit).T
    return Subspace(order, lower, pivots, energy.sum(dim=(0, 1)))
