"""In which basis do products of two vectors lose least when only some of their dimensions stay?

Queries and keys (or values and the rows that read them) count only through their inner products q^T k. For any
invertible R, (R q)^T (R^-T k) is the same product, so the basis is free. By Eckart and Young the best products of
rank r come from the singular value decomposition of A^1/2 B^1/2, with A = E[q q^T] and B = E[k k^T] (the form of
CORP, arXiv 2602.05243, and MoDeGPT, arXiv 2408.09632): the first r dimensions of this basis, whatever r is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["PairedBasis", "affine_second_moment", "paired_basis"]

# Eigenvalues below this share of the largest are raised to it: directions that never occur stay invertible.
_FLOOR = 1e-10


@dataclass(frozen=True)
class PairedBasis:
    """Two maps with first^T second = I.

    Attributes:
        first: of the first vectors, shape [D, D], float64: row i is new dimension i, most important first.
        second: of the second vectors, shape [D, D].
        energy: mean squared product that each new dimension holds, shape [D], falling: leaving out dimensions costs
            the sum of theirs.
    """

    first: Tensor
    second: Tensor
    energy: Tensor


def paired_basis(first_DD: Tensor, second_DD: Tensor) -> PairedBasis:
    """Basis in which the first r dimensions give the best products of rank r, for every r.

    In it both second moments are the same diagonal matrix, the singular values.

    Args:
        first_DD: second moment of the first vectors, symmetric positive semidefinite, shape [D, D].
        second_DD: second moment of the second vectors, same shape.
    """
    first, second = _root(first_DD.double()), _root(second_DD.double())
    left, values, right = torch.linalg.svd(first @ second)
    scale = values.clamp_min(torch.finfo(values.dtype).tiny).rsqrt()[:, None]
    return PairedBasis(scale * (right @ second), scale * (left.T @ first), values.square())


def _root(matrix: Tensor) -> Tensor:
    """Symmetric square root with a floor under the eigenvalues; the identity where there is no energy at all."""
    values, vectors = torch.linalg.eigh(matrix)
    if float(values[-1]) <= 0.0:
        return torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    root: Tensor = vectors * values.clamp_min(values[-1] * _FLOOR).sqrt() @ vectors.T
    return root


def affine_second_moment(weight_DC: Tensor, bias_D: Tensor, second_CC: Tensor, mean_C: Tensor) -> Tensor:
    """E[y y^T] of y = W x + b from the second moment and the mean of x, shape [D, D]."""
    mean = weight_DC @ mean_C
    crossed = torch.outer(mean, bias_D)
    return weight_DC @ second_CC @ weight_DC.T + crossed + crossed.T + torch.outer(bias_D, bias_D)
