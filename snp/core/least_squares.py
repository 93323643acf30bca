"""Which linear map comes closest to targets while it is held to given weights?

W = argmin ||T - W Z - d||^2 + ridge * mean energy * ||W - W_0||^2. With M = T - W_0 Z the normal equations are
(W - W_0) (G + lambda I) = M Z^T, with G = Z Z^T. One factorisation of G + lambda I serves any number of right-hand
sides. With fewer samples than columns the same solution is M (Z^T Z + lambda I)^-1 Z^T, whose matrix has as many rows
as there are samples (the dual form of ridge regression; Saunders et al. 1998).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from snp.core.gram import NOT_FINITE, CrossMoments

__all__ = ["Factor", "MomentEquations", "SampleEquations", "best_of", "factor"]

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


def best_of(errors: Sequence[Tensor], candidates: Sequence[float]) -> float:
    """The candidate of the smallest error, the first of equal ones."""
    return candidates[int(torch.stack(list(errors)).argmin())]


def _checked(ridge: float) -> float:
    if ridge < 0:
        raise ValueError(f"ridge must be at least 0, found {ridge}")
    return ridge


class MomentEquations:
    """The problem in terms of moments: as large as there are columns, whatever the number of samples.

    Args:
        weight_OK: dense weights of the kept columns, shape [O, K]; the fit decays to them.
        moments: of inputs Z and targets T.
        affine: fit an offset d, too (False: it is zero).
    """

    def __init__(self, weight_OK: Tensor, moments: CrossMoments, *, affine: bool) -> None:
        self._moments, self._affine = moments, affine
        self._gram, cross = moments.centred() if affine else (moments.inputs.second, moments.cross)
        self._dense = weight_OK.detach().double().to(self._gram.device)
        self._missing = cross - self._dense @ self._gram
        self._factor: Factor | None = None

    def factor(self, ridge: float) -> None:
        """Settle the ridge, relative to the mean energy of a column, for the solutions to come.

        Raises:
            ValueError: it is negative.
        """
        self._factor = None  # never two in memory
        self._factor = factor(self._gram, _checked(ridge) * self._gram.diagonal().mean())

    def solution(self, moved_cross: Tensor | None = None, moved_target: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Weights [O, K] and offset [O] once targets have moved.

        Args:
            moved_cross: movement of the targets times the inputs, shape [O, K].
            moved_target: summed movement of the targets, shape [O].
        """
        assert self._factor is not None, "settle the ridge first"
        first, count = self._moments.inputs.first, max(self._moments.inputs.count, 1)
        missing, target = self._missing, self._moments.target
        if moved_cross is not None and moved_target is not None:
            target = target + moved_target
            missing = missing + moved_cross
            if self._affine:
                missing = missing.addr(moved_target, first, alpha=-1 / count)
        weight = self._dense + self._factor.solve(missing.T).T
        shift = (target - weight @ first) / count
        return weight, shift if self._affine else torch.zeros_like(shift)

    def held_back_errors(self, held: CrossMoments, ridges: Sequence[float]) -> list[Tensor]:
        """Squared error on other samples, one scalar for every ridge."""
        errors = []
        for ridge in ridges:
            self.factor(ridge)
            weight, shift = self.solution()
            errors.append(_error(weight, shift, held))
        return errors


def _error(weight_OK: Tensor, shift_O: Tensor, moments: CrossMoments) -> Tensor:
    """Squared error of an affine map on the samples behind some moments, summed over outputs and samples."""
    inputs, count = moments.inputs, moments.inputs.count
    # <W, W G - 2 T Z^T> in one pass over [O, K].
    crossed = torch.addmm(moments.cross, weight_OK, inputs.second, beta=-2).mul_(weight_OK).sum()
    mean_part = 2 * (shift_O * (weight_OK @ inputs.first - moments.target)).sum() + count * shift_O.square().sum()
    return moments.energy.sum() + crossed + mean_part


class SampleEquations:
    """The problem in terms of samples, N of them: cheaper than moments where N < K.

    Args:
        weight_OK: dense weights of the kept columns, shape [O, K]; the fit decays to them.
        inputs_NK: shape [N, K].
        target_NO: shape [N, O].
        affine: fit an offset d, too (False: it is zero).

    Raises:
        ValueError: the inputs hold NaN or infinity.
    """

    def __init__(self, weight_OK: Tensor, inputs_NK: Tensor, target_NO: Tensor, *, affine: bool) -> None:
        self._affine = affine
        inputs, target = inputs_NK.double(), target_NO.double()
        self._dense = weight_OK.detach().to(inputs)
        mean = inputs.mean(dim=0) if affine else inputs.new_zeros(inputs.shape[1])
        self._mean, self._centred = mean, inputs - mean
        self._target_mean = target.mean(dim=0) if affine else target.new_zeros(target.shape[1])
        self._missing = target - self._target_mean - self._centred @ self._dense.T
        self._gram = self._centred @ self._centred.T
        if not bool(torch.isfinite(self._gram.diagonal()).all()):
            raise ValueError(NOT_FINITE)
        self._factor: Factor | None = None

    def factor(self, ridge: float) -> None:
        """Settle the ridge, relative to the mean energy of a column, for the solutions to come.

        Raises:
            ValueError: it is negative.
        """
        self._factor = factor(self._gram, _checked(ridge) * self._energy(self._gram))

    def _energy(self, gram_NN: Tensor) -> Tensor:
        """Mean energy of a column from the products of samples."""
        return gram_NN.trace() / max(self._centred.shape[1], 1)

    def solution(self, moved_NO: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Weights [O, K] and offset [O] once targets have moved by [N, O]."""
        assert self._factor is not None, "settle the ridge first"
        missing, target_mean = self._missing, self._target_mean
        if moved_NO is not None:
            moved = moved_NO.to(missing)
            shift = moved.mean(dim=0) if self._affine else torch.zeros_like(target_mean)
            missing, target_mean = missing + moved - shift, target_mean + shift
        weight = self._dense + self._factor.solve(missing).T @ self._centred
        return weight, target_mean - weight @ self._mean

    def held_back_errors(self, is_held_N: Tensor, ridges: Sequence[float]) -> list[Tensor]:
        """Squared error on some of the samples of fits on the others, one scalar for every ridge.

        Args:
            is_held_N: the samples that are not fitted on, bool; where it holds none, all are both.
            ridges: relative to the mean energy of a column.
        """
        held = is_held_N.nonzero().flatten()
        found = (~is_held_N).nonzero().flatten() if len(held) else torch.arange(len(is_held_N), device=held.device)
        held = held if len(held) else found
        gram, between, fitted, missing = (
            self._gram[found][:, found],
            self._gram[held][:, found],
            *self._parts(found, held),
        )
        if self._affine:  # deviations from the mean of the samples that are fitted on
            rows, columns = between.mean(dim=1), gram.mean(dim=0)
            between = between - rows[:, None] - columns + columns.mean()
            gram = gram - columns[:, None] - columns + columns.mean()
        errors = []
        for ridge in ridges:
            solved = factor(gram, _checked(ridge) * self._energy(gram)).solve(fitted)
            errors.append((missing - between @ solved).square().sum())
        return errors

    def _parts(self, found: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
        """What the dense weights leave of the targets of two parts, less the mean of the first."""
        fitted, missing = self._missing[found], self._missing[held]
        if self._affine:
            mean = fitted.mean(dim=0)
            fitted, missing = fitted - mean, missing - mean
        return fitted, missing
