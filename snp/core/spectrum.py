"""What are the eigenvalues and eigenvectors of a Gram matrix, at the price of its rank?

A full decomposition of C columns takes about 11 C^3 multiply-accumulates' time, much of it at the speed of memory. A
Gram matrix of N < C samples has rank r <= N, and so has one with dead and dependent units. A pivoted Cholesky
factorisation in blocks finds G = F F^T in C r^2, and the small matrix F^T F has the same eigenvalues other than zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from snp.core.subspace import ldl

__all__ = ["is_regular", "low_rank_factor", "spectrum"]

_BLOCK = 64
# Under this size a full decomposition takes less than a second.
_SMALLEST = 512


def spectrum(gram_CC: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues in ascending order and eigenvectors as columns; without the null space where that pays.

    Args:
        gram_CC: symmetric positive semidefinite, float64, shape [C, C].

    Returns:
        Values, shape [R], and vectors, shape [C, R], with R = C, or the rank where that is at most 5/8 of C.
    """
    size = len(gram_CC)
    factor = None
    if size >= _SMALLEST and not is_regular(gram_CC):
        factor = low_rank_factor(gram_CC, size * 5 // 8)
    if factor is None or factor.shape[1] == 0:
        values, vectors = torch.linalg.eigh(gram_CC)
        return values, vectors
    values, small = torch.linalg.eigh(factor.T @ factor)
    is_real = values > values[-1] * size * torch.finfo(values.dtype).eps  # the rest is rounding
    values = values[is_real]
    return values, factor @ (small[:, is_real] * values.rsqrt())


def is_regular(gram_CC: Tensor) -> bool:
    """Is the rank full beyond doubt?  For a small part of what a decomposition costs."""
    lower, info = torch.linalg.cholesky_ex(gram_CC)
    return int(info) == 0 and float(lower.diagonal().min()) ** 2 > _negligible(gram_CC.diagonal())


def _negligible(diagonal_C: Tensor) -> float:
    """What float64 cannot tell from zero beside such a diagonal."""
    return float(diagonal_C.max()) * len(diagonal_C) * torch.finfo(diagonal_C.dtype).eps


def low_rank_factor(gram_CC: Tensor, largest_rank: int) -> Tensor | None:
    """F with F F^T = gram to float64's precision, shape [C, R]; None where R would be above ``largest_rank``.

    Blocks of columns with the largest remaining diagonal are eliminated (pivoted Cholesky, a block at a time); what
    remains in the end is below C * eps times the largest diagonal entry.
    """
    left = gram_CC.diagonal().clone()
    enough = _negligible(left)
    factor = gram_CC.new_zeros(len(left), min(len(left), largest_rank + _BLOCK))
    rank = 0
    while float(left.max()) > enough:
        block = left.topk(min(_BLOCK, len(left))).indices
        block = block[left[block] > enough]
        panel = gram_CC[:, block] - factor[:, :rank] @ factor[block, :rank].T
        lower, pivots = ldl(panel[block])
        is_new = pivots > enough
        # Columns that depend on others of the block have zeros below their pivot, so that L without them is a basis.
        columns = torch.linalg.solve_triangular(lower, panel.T, upper=False)[is_new].T / pivots[is_new].sqrt()
        if rank + columns.shape[1] > largest_rank:
            return None
        factor[:, rank : rank + columns.shape[1]] = columns
        rank += columns.shape[1]
        left = (left - columns.square().sum(dim=1)).clamp_min(0)
        left[block] = 0.0
    return factor[:, :rank].contiguous()
