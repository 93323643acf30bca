"""How is A x = b solved for one symmetric matrix A and many b, whatever the rank of A?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Factor", "factor"]

# A pivot below this share of the largest means that the triangular solves would return noise.
_SMALLEST_PIVOT = 1e-7


@dataclass(frozen=True, eq=False)
class Factor:
    """A factorised symmetric positive semidefinite matrix A, or its pseudo-inverse where it is singular.

    Attributes:
        lower: Cholesky factor, shape [K, K]; None where the matrix is singular to working precision.
        root: shape [K, R], with root root^T the pseudo-inverse of a singular matrix.
    """

    lower: Tensor | None
    root: Tensor | None = None

    def solve(self, right_KR: Tensor) -> Tensor:
        """A^-1 B, shape [K, R]; without a Cholesky factor the solution of least norm."""
        if self.lower is not None:
            return torch.cholesky_solve(right_KR, self.lower)
        assert self.root is not None
        return self.root @ (self.root.T @ right_KR)


def factor(gram_KK: Tensor, added: Tensor | float = 0.0) -> Factor:
    """Factorise gram + added * I.

    Args:
        gram_KK: symmetric positive semidefinite, float64, shape [K, K].
        added: to the diagonal, >= 0.
    """
    regular = gram_KK.clone()
    regular.diagonal().add_(added)
    lower, info = torch.linalg.cholesky_ex(regular)
    diagonal = lower.diagonal()
    is_regular = (info == 0) & (diagonal.min() > _SMALLEST_PIVOT * diagonal.max())
    if bool(is_regular):
        return Factor(lower)
    values, vectors = torch.linalg.eigh(regular)
    floor = values[-1].clamp_min(0) * len(values) * torch.finfo(values.dtype).eps * 8
    inverse = torch.where(values > floor, values.reciprocal(), 0.0)
    return Factor(None, vectors * inverse.sqrt())
