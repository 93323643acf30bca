"""How do the products of a consumer's folded weights, M = w w^T, follow while units go?

As a matrix [U * b, U * b], or as the weights [O, U * b] it is made of. A removal needs b columns of M. Weights give
them in products of O x U b numbers, few where outputs are few beside columns, as those of kernel patches are; a matrix
has them at hand, and pays for it once per panel.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from snp.core.panel import Panel

__all__ = ["FoldedEnergy", "diagonal_blocks", "energy_of", "solved"]


class FoldedEnergy(Protocol):
    """Products of the weights of units that are still there."""

    def blocks(self) -> Tensor:
        """Diagonal blocks between panels, shape [U, b, b]."""

    def half_step(self, own: Tensor, lower: Tensor, u: Tensor, gone: Tensor, own_gone: Tensor) -> Tensor:
        """A removal's h, shape [b, U * b], with M' = M - h^T u - u^T h.

        Args:
            own: columns of the unit that goes, shape [b].
            lower: L of its block of the inverse Gram matrix.
            u: L^-1 P_p:, shape [b, U * b].
            gone: the u of the panel's earlier removals as columns, shape [U * b, used].
            own_gone: its rows at ``own``, shape [b, used].
        """

    def catch_up(self, gone: Tensor) -> None:
        """End the panel, whose u are given as columns."""

    def compact(self, columns: Tensor) -> None:
        """Forget all columns but these, between panels."""


def energy_of(weight_OC: Tensor, columns_per_unit: int, num_columns: int) -> FoldedEnergy:
    """The cheaper form: of single columns products with all weights are bound by memory.

    Args:
        weight_OC: folded weights at the start, shape [O, U * b], float64.
        columns_per_unit: b.
        num_columns: of a panel at most.
    """
    as_weights = columns_per_unit > 1 and 2 * len(weight_OC) < weight_OC.shape[1]
    return (_Weights if as_weights else _Matrix)(weight_OC, columns_per_unit, num_columns)


class _Matrix:
    def __init__(self, weight_OC: Tensor, columns_per_unit: int, num_columns: int) -> None:
        self._products, self._width = weight_OC.T @ weight_OC, columns_per_unit
        self._half = Panel(self._products, num_columns, columns_per_unit)

    def blocks(self) -> Tensor:
        return diagonal_blocks(self._products, self._width)

    def half_step(self, own: Tensor, lower: Tensor, u: Tensor, gone: Tensor, own_gone: Tensor) -> Tensor:
        rows, half = self._products.index_select(0, own), self._half.columns
        if not self._half.is_empty:
            rows.addmm_(own_gone, half.T, alpha=-1).addmm_(half.index_select(0, own), gone.T, alpha=-1)
        v = solved(lower, rows)
        h = torch.addmm(v, solved(lower, v.index_select(1, own).T), u, alpha=-0.5)
        self._half.add(h)
        return h

    def catch_up(self, gone: Tensor) -> None:
        half = self._half.columns
        self._products.addmm_(half, gone.T, alpha=-1).addmm_(gone, half.T, alpha=-1)
        self._half.clear()

    def compact(self, columns: Tensor) -> None:
        self._products = self._products.index_select(0, columns).index_select(1, columns)
        self._half.compact(len(columns))


class _Weights:
    def __init__(self, weight_OC: Tensor, columns_per_unit: int, num_columns: int) -> None:
        self._weight, self._width = weight_OC.clone(), columns_per_unit
        self._moved = Panel(weight_OC, num_columns, columns_per_unit)

    def blocks(self) -> Tensor:
        parts = self._weight.T.reshape(self._weight.shape[1] // self._width, self._width, len(self._weight))
        return parts @ parts.mT

    def half_step(self, own: Tensor, lower: Tensor, u: Tensor, gone: Tensor, own_gone: Tensor) -> Tensor:
        rows, moved = self._weight.index_select(1, own).T, self._moved.columns
        if not self._moved.is_empty:
            rows = torch.addmm(rows, own_gone, moved.T, alpha=-1)
        a = solved(lower, rows)  # [b, O]
        v = a @ self._weight
        if not self._moved.is_empty:
            v.addmm_(a @ moved, gone.T, alpha=-1)
        self._moved.add(a)
        return v.addmm_(a @ a.T, u, alpha=-0.5)

    def catch_up(self, gone: Tensor) -> None:
        self._weight.addmm_(self._moved.columns, gone.T, alpha=-1)
        self._moved.clear()

    def compact(self, columns: Tensor) -> None:
        self._weight = self._weight.index_select(1, columns)


def diagonal_blocks(matrix: Tensor, width: int) -> Tensor:
    """Diagonal blocks, shape [U, b, b]."""
    num_units = len(matrix) // width
    blocks = matrix.reshape(num_units, width, num_units, width).diagonal(dim1=0, dim2=2)
    return blocks.permute(2, 0, 1).contiguous()


def solved(lower: Tensor, right: Tensor) -> Tensor:
    """L^-1 B."""
    return right / lower if len(lower) == 1 else torch.linalg.solve_triangular(lower, right, upper=False)
