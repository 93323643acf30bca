"""Which weights of the kept units stand in best for the units that were cut?

Least squares: W' = argmin ||W X - W' X_K||^2 + ridge * mean energy * ||W' - W_K||^2, so that a poorly determined
fit decays to plain deletion, never to zero. Without ridge this is W P^T L[:, :k] (L[:k, :k])^-1 of the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor

from snp.core.factor import factor
from snp.core.least_squares import checked_ridge
from snp.core.subspace import Subspace, columns_of

__all__ = ["fold", "output_error", "reconstructed", "transfer"]


def reconstructed(weight: Tensor, gram_CC: Tensor, kept: Tensor, ridge: float = 1e-4) -> Tensor:
    """What :func:`fold` makes of :func:`transfer`; where outputs are fewer than cut columns, these are solved for.

    Args:
        weight: consumer's weight, as for :func:`fold`.
        gram_CC: as for :func:`transfer`.
        kept: indices of kept columns, shape [K].
        ridge: relative to the mean energy of a kept column, >= 0.

    Returns:
        Same shape and dtype as ``weight``.

    Raises:
        ValueError: ridge is negative.
    """
    checked_ridge(ridge)
    num_columns = len(gram_CC)
    work = weight.detach().reshape(len(weight), num_columns, -1).double().movedim(2, 1)  # [O, p, C]
    rows = work.reshape(-1, num_columns)
    if len(kept) == 0 or len(rows) >= num_columns - len(kept):
        return fold(weight, transfer(gram_CC, kept, ridge), kept)
    is_kept = torch.zeros(num_columns, dtype=torch.bool, device=gram_CC.device).index_fill_(0, kept, True)
    kept_rows = gram_CC.index_select(0, kept)
    gram_KK = kept_rows[:, kept]
    lost = torch.where(is_kept, 0.0, rows) @ kept_rows.T  # cross moments of what cut columns did
    added = factor(gram_KK, ridge * gram_KK.diagonal().mean()).solve(lost.T).T
    folded = torch.zeros_like(rows).index_copy_(1, kept, rows[:, kept] + added)
    return folded.reshape(work.shape).movedim(1, 2).reshape(weight.shape).to(weight.dtype)


def transfer(gram_CC: Tensor, kept: Tensor, ridge: float = 1e-4) -> Tensor:
    """Matrix T that rebuilds all columns from the kept ones: X ~ T X_K, W' = W T.

    Args:
        gram_CC: Gram matrix (centred for an affine fit), shape [C, C], float64.
        kept: indices of kept columns, shape [K].
        ridge: relative to the mean energy of a kept column, >= 0.

    Returns:
        Shape [C, K], float64; rows of kept columns are rows of the identity.

    Raises:
        ValueError: ridge is negative.
    """
    checked_ridge(ridge)
    num_columns = gram_CC.shape[0]
    result = torch.zeros(num_columns, len(kept), dtype=torch.float64, device=gram_CC.device)
    result[kept, torch.arange(len(kept), device=kept.device)] = 1.0
    is_cut = torch.ones(num_columns, dtype=torch.bool, device=gram_CC.device)
    is_cut[kept] = False
    cut = is_cut.nonzero().flatten()
    if len(cut) == 0 or len(kept) == 0:
        return result
    kept_rows = gram_CC.index_select(0, kept)
    gram_KK = kept_rows[:, kept]
    result[cut] = factor(gram_KK, ridge * gram_KK.diagonal().mean()).solve(kept_rows[:, cut]).T
    return result


def fold(weight: Tensor, transfer_CK: Tensor, kept: Tensor) -> Tensor:
    """Dense-shaped weights in which cut columns are zero and kept ones have taken over their work.

    Args:
        weight: consumer's weight, shape [O, C, ...] (dimensions behind C share one transfer, as a kernel does) or
            [O, D, ...] with D * b = C when each of D's entries owns b columns of the kernel (patch Gram).
        transfer_CK: result of :func:`transfer`.
        kept: the K kept columns.

    Returns:
        Same shape and dtype as ``weight``.
    """
    num_columns = transfer_CK.shape[0]
    work = weight.detach().reshape(weight.shape[0], num_columns, -1).double()
    folded = torch.zeros_like(work)
    folded[:, kept] = torch.einsum("ocp,ck->okp", work, transfer_CK)
    return folded.reshape(weight.shape).to(weight.dtype)


def output_error(weight_OC: Tensor, subspace: Subspace, columns_per_unit: int = 1) -> Tensor:
    """Squared error at the consumer's output after keeping the first k units, refitted.

    W X = (W P^T L) X~ has orthogonal terms, so cutting after k costs the sum over later columns of
    D_i ||(W P^T L)_i||^2.

    Args:
        weight_OC: consumer's weight over columns in the units' own order, shape [O, U * b].
        subspace: from :func:`snp.core.subspace.factorize`.
        columns_per_unit: b.

    Returns:
        Shape [U + 1], float64, decreasing to 0: entry k is the error with k units kept.
    """
    columns = columns_of(subspace.order, columns_per_unit)
    projected = weight_OC.double()[:, columns] @ subspace.unit_lower
    per_column = subspace.pivots * projected.square().sum(dim=0)
    per_unit = per_column.reshape(-1, columns_per_unit).sum(dim=1)
    tail = per_unit.flip(0).cumsum(0).flip(0)
    return torch.cat([tail, tail.new_zeros(1)])
