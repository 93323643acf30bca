"""How do the inverse Gram matrix and the folded weights of a consumer follow while units go, one after the other?

With P = C^-1 and w_p the folded weights of unit p, removing p costs tr(P_pp^-1 w_p w_p^T) (Hassibi and Stork 1993, for
whole units). Costs need the diagonal blocks of P and of M = w w^T only. With P_pp = L L^T, u = P_:p L^-T and
h = M_:p L^-T - u s / 2, where s = L^-1 M_pp L^-T, a removal is

    P' = P - u u^T,    M' = M - h u^T - u h^T.

Only diagonal blocks follow at once. The columns of a unit that goes are brought up to date from the u and h of the
panel, and the matrices catch up once per panel, in products of matrices instead of vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from snp.core.subspace import columns_of

__all__ = ["Eliminator"]

# Keeps the inverse of a rank-deficient Gram matrix finite; relative to its mean diagonal.
_RIDGE = 1e-5
# Columns that go before the matrices catch up.
_PANEL = 128


class Eliminator:
    """One consumer during elimination: the inverse Gram matrix of the units still there, and products of their weights.

    Args:
        gram: shape [U * b, U * b], float64.
        weighted: folded weights at the start, shape [O, U * b], float64.
        columns_per_unit: b.
    """

    def __init__(self, gram: Tensor, weighted: Tensor, columns_per_unit: int) -> None:
        self._width = columns_per_unit
        self._own = torch.arange(columns_per_unit, device=gram.device)
        mean = gram.diagonal().mean().double()
        self._scale = torch.where(mean > torch.finfo(torch.float64).tiny, mean, 1.0)
        self._inverse = _inverse(gram.double() / self._scale)
        weight = weighted.double()
        self._energy = weight.T @ weight
        self._gone, self._half = (gram.new_zeros(len(gram), _PANEL + columns_per_unit).double() for _ in range(2))
        self._begin_panel()

    def _begin_panel(self) -> None:
        self._used = 0  # columns of the panel
        self._inverse_blocks, self._energy_blocks = (self._blocks(part) for part in (self._inverse, self._energy))

    def _blocks(self, matrix: Tensor) -> Tensor:
        """Diagonal blocks, shape [U, b, b]."""
        num_units, width = len(matrix) // self._width, self._width
        blocks = matrix.reshape(num_units, width, num_units, width).diagonal(dim1=0, dim2=2)
        return blocks.permute(2, 0, 1).contiguous()

    @property
    def is_full(self) -> bool:
        """Should the matrices catch up before the next unit goes?"""
        return self._used >= _PANEL

    def costs(self) -> Tensor:
        """Squared output error that each removal would add, shape [U]; meaningless for removed units."""
        if self._width == 1:
            return (self._energy_blocks / self._inverse_blocks)[:, 0, 0] * self._scale
        inverted, _ = torch.linalg.inv_ex(self._inverse_blocks)
        cost: Tensor = (inverted * self._energy_blocks).sum(dim=(1, 2)) * self._scale
        return cost

    def remove(self, unit: Tensor) -> None:
        """Take one unit, an index of shape [1], out and fold it into the others."""
        own = unit * self._width + self._own
        lower, _ = torch.linalg.cholesky_ex(self._inverse_blocks.index_select(0, unit)[0])
        # Rows for columns: both matrices are symmetric.
        column, energy = self._inverse.index_select(0, own), self._energy.index_select(0, own)
        gone, half = self._gone[:, : self._used], self._half[:, : self._used]
        if self._used:
            mine, mine_half = gone.index_select(0, own), half.index_select(0, own)
            column = torch.addmm(column, mine, gone.T, alpha=-1)
            energy = torch.addmm(energy, mine, half.T, alpha=-1).addmm_(mine_half, gone.T, alpha=-1)
        u, v = (_solved(lower, part) for part in (column, energy))
        between = _solved(lower, v.index_select(1, own).T)
        h = torch.addmm(v, between, u, alpha=-0.5)
        self._gone[:, self._used : self._used + self._width] = u.T
        self._half[:, self._used : self._used + self._width] = h.T
        self._used += self._width
        self._downdate_blocks(u, h)
        # A removed unit is made independent of the others, so that batched inverses stay defined.
        self._inverse_blocks.index_copy_(0, unit, torch.eye(self._width).to(lower)[None])

    def _downdate_blocks(self, u: Tensor, h: Tensor) -> None:
        u, h = (part.T.reshape(-1, self._width, self._width) for part in (u, h))
        self._inverse_blocks.baddbmm_(u, u.mT, alpha=-1)
        self._energy_blocks.baddbmm_(h, u.mT, alpha=-1).baddbmm_(u, h.mT, alpha=-1)

    def catch_up(self, is_closed: Tensor) -> None:
        """End the panel: bring the matrices up to date; ``is_closed`` says which units are gone, bool, shape [U]."""
        gone, half = self._gone[:, : self._used], self._half[:, : self._used]
        self._inverse.addmm_(gone, gone.T, alpha=-1)
        self._energy.addmm_(half, gone.T, alpha=-1).addmm_(gone, half.T, alpha=-1)
        self._begin_panel()
        self._inverse_blocks[is_closed] = torch.eye(self._width).to(self._inverse)

    def compact(self, units: Tensor) -> None:
        """Forget all units but these, between panels: steps cost as much as the units that are left."""
        assert self._used == 0
        columns = columns_of(units, self._width)
        self._inverse, self._energy = (
            matrix.index_select(0, columns).index_select(1, columns) for matrix in (self._inverse, self._energy)
        )
        self._gone, self._half = self._gone[: len(columns)], self._half[: len(columns)]
        self._begin_panel()


def _solved(lower: Tensor, right: Tensor) -> Tensor:
    """L^-1 B."""
    return right / lower if len(lower) == 1 else torch.linalg.solve_triangular(lower, right, upper=False)


def _inverse(gram: Tensor) -> Tensor:
    """(C + ridge I)^-1 of a matrix of mean diagonal 1."""
    regular = gram.clone()
    regular.diagonal().add_(_RIDGE)
    lower, info = torch.linalg.cholesky_ex(regular)
    return torch.linalg.inv(regular) if bool(info) else torch.cholesky_inverse(lower)
