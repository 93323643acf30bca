"""How do the inverse Gram matrix and the folded weights of a consumer follow while units go, one after the other?

With P = G^-1 and w_p the folded weights of unit p, removing p costs tr(P_pp^-1 w_p w_p^T) (Hassibi and Stork 1993, for
whole units). Costs need the diagonal blocks of P and of M = w w^T only. With P_pp = L L^T, u = P_:p L^-T and
h = M_:p L^-T - u s / 2, where s = L^-1 M_pp L^-T, a removal is

    P' = P - u u^T,    M' = M - h u^T - u h^T,    or with the weights w^T = W themselves    W' = W - (W_:p L^-T) u^T.

Only diagonal blocks follow at once. The columns of a unit that goes are brought up to date from what the panel holds,
and the matrices catch up once per panel, in products of matrices instead of vectors (:mod:`snp.core.folded_energy`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from snp.core.folded_energy import diagonal_blocks, energy_of, solved
from snp.core.panel import Panel
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
        self._eye = torch.eye(columns_per_unit, dtype=torch.float64, device=gram.device)[None]
        mean = gram.diagonal().mean().double()
        self._scale = torch.where(mean > torch.finfo(torch.float64).tiny, mean, 1.0)
        self._inverse = _inverse(gram.double() / self._scale)
        num_columns = self.steps_per_panel * columns_per_unit
        self._gone = Panel(self._inverse, num_columns, columns_per_unit)
        self._energy = energy_of(weighted.double(), columns_per_unit, num_columns)
        self._look_at_blocks()

    def _look_at_blocks(self) -> None:
        self._inverse_blocks = diagonal_blocks(self._inverse, self._width)
        self._energy_blocks = self._energy.blocks()

    @property
    def steps_per_panel(self) -> int:
        """Removals before the matrices must catch up."""
        return -(-_PANEL // self._width)

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
        lower = _root(self._inverse_blocks.index_select(0, unit)[0])
        # Rows for columns: the matrix is symmetric.
        column = self._inverse.index_select(0, own)
        gone = self._gone.columns
        own_gone = gone.index_select(0, own)
        if not self._gone.is_empty:
            column.addmm_(own_gone, gone.T, alpha=-1)
        u = solved(lower, column)
        h = self._energy.half_step(own, lower, u, gone, own_gone)
        self._gone.add(u)
        self._downdate_blocks(u, h)
        # A removed unit is made independent of the others, so that batched inverses stay defined.
        self._inverse_blocks.index_copy_(0, unit, self._eye)

    def _downdate_blocks(self, u: Tensor, h: Tensor) -> None:
        if self._width == 1:
            u, h = u[0, :, None, None], h[0, :, None, None]
            self._inverse_blocks.addcmul_(u, u, value=-1)
            self._energy_blocks.addcmul_(h, u, value=-2)
            return
        u, h = (part.T.reshape(-1, self._width, self._width) for part in (u, h))
        self._inverse_blocks.baddbmm_(u, u.mT, alpha=-1)
        self._energy_blocks.baddbmm_(h, u.mT, alpha=-1).baddbmm_(u, h.mT, alpha=-1)

    def catch_up(self, is_closed: Tensor) -> None:
        """End the panel: bring the matrices up to date; ``is_closed`` says which units are gone, bool, shape [U]."""
        gone = self._gone.columns
        self._inverse.addmm_(gone, gone.T, alpha=-1)
        self._energy.catch_up(gone)
        self._gone.clear()
        self._look_at_blocks()
        self._inverse_blocks[is_closed] = self._eye

    def compact(self, units: Tensor) -> None:
        """Forget all units but these, between panels: steps cost as much as the units that are left."""
        columns = columns_of(units, self._width)
        self._inverse = self._inverse.index_select(0, columns).index_select(1, columns)
        self._energy.compact(columns)
        self._gone.compact(len(columns))
        self._look_at_blocks()


def _root(block: Tensor) -> Tensor:
    """Cholesky factor of one unit's block, shape [b, b]."""
    if len(block) == 1:
        return block.clamp_min(torch.finfo(block.dtype).tiny).sqrt()
    lower: Tensor = torch.linalg.cholesky_ex(block)[0]
    return lower


def _inverse(gram: Tensor) -> Tensor:
    """(G + ridge I)^-1 of a matrix of mean diagonal 1."""
    regular = gram.clone()
    regular.diagonal().add_(_RIDGE)
    lower, info = torch.linalg.cholesky_ex(regular)
    return torch.linalg.inv(regular) if bool(info) else torch.cholesky_inverse(lower)
