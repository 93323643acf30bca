"""Which linear map comes closest to targets, where there are fewer samples than columns?

The solution of :mod:`snp.core.least_squares`, W = W_0 + M Z^T (Z Z^T + lambda I)^-1, is also
W_0 + M (Z^T Z + lambda I)^-1 Z^T, whose matrix has as many rows as there are samples (the dual form of ridge
regression; Saunders et al. 1998).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from snp.core.factor import Factor, factor
from snp.core.gram import NOT_FINITE
from snp.core.least_squares import checked_ridge

__all__ = ["SampleEquations"]


class SampleEquations:
    """The problem in terms of samples, N of them: cheaper than moments where N < K.

    Args:
        weight_OK: dense weights of the kept columns, shape [O, K]; the fit decays to them. None for zeros.
        inputs_NK: shape [N, K].
        target_NO: shape [N, O].
        affine: fit an offset d, too (False: it is zero).

    Raises:
        ValueError: the inputs hold NaN or infinity.
    """

    def __init__(self, weight_OK: Tensor | None, inputs_NK: Tensor, target_NO: Tensor, *, affine: bool) -> None:
        self._affine = affine
        inputs, target = inputs_NK.double(), target_NO.double()
        self._dense = None if weight_OK is None else weight_OK.detach().to(inputs)
        mean = inputs.mean(dim=0) if affine else inputs.new_zeros(inputs.shape[1])
        self._mean, self._centred = mean, inputs - mean
        self._target_mean = target.mean(dim=0) if affine else target.new_zeros(target.shape[1])
        self._missing = target - self._target_mean
        if self._dense is not None:
            self._missing = self._missing - self._centred @ self._dense.T
        self._gram = self._centred @ self._centred.T
        if not bool(torch.isfinite(self._gram.diagonal()).all()):
            raise ValueError(NOT_FINITE)
        self._factor: Factor | None = None

    def factor(self, ridge: float) -> None:
        """Settle the ridge, relative to the mean energy of a column, for the solutions to come.

        Raises:
            ValueError: it is negative.
        """
        self._factor = factor(self._gram, checked_ridge(ridge) * self._energy(self._gram))

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
        weight = self._factor.solve(missing).T @ self._centred
        if self._dense is not None:
            weight = self._dense + weight
        return weight, target_mean - weight @ self._mean

    def held_back_errors(self, is_held_N: Tensor, ridges: Sequence[float]) -> Iterator[Tensor]:
        """Squared error on some of the samples of fits on the others, one scalar for every ridge, when it is asked for.

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
        for ridge in ridges:
            solved = factor(gram, checked_ridge(ridge) * self._energy(gram)).solve(fitted)
            yield (missing - between @ solved).square().sum()

    def _parts(self, found: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
        """What the dense weights leave of the targets of two parts, less the mean of the first."""
        fitted, missing = self._missing[found], self._missing[held]
        if self._affine:
            mean = fitted.mean(dim=0)
            fitted, missing = fitted - mean, missing - mean
        return fitted, missing
