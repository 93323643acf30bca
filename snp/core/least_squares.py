"""Which linear map comes closest to targets while it is held to given weights?

W = argmin ||T - W Z - d||^2 + ridge * mean energy * ||W - W_0||^2. With M = T - W_0 Z the normal equations are
(W - W_0) (G + lambda I) = M Z^T, with G = Z Z^T. One factorisation of G + lambda I serves any number of right-hand
sides. :mod:`snp.core.dual_least_squares` has the same problem for fewer samples than columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from snp.core.factor import Factor, factor
from snp.core.gram import CrossMoments

__all__ = ["MomentEquations", "best_of", "checked_ridge"]


def best_of(errors: Iterable[Tensor], candidates: Sequence[float]) -> tuple[float, Tensor]:
    """The candidate in front of the first rise of the errors, and its error; the first of equal ones.

    Errors on other samples fall until a ridge is large enough and rise from there, and each costs a factorisation: none
    is asked for behind a rise.
    """
    best, least = candidates[0], None
    for candidate, error in zip(candidates, errors, strict=False):
        if least is not None and bool(error > least):
            break
        if least is None or bool(error < least):
            best, least = candidate, error
    assert least is not None, "no candidates"
    return best, least


def checked_ridge(ridge: float) -> float:
    """The ridge.

    Raises:
        ValueError: it is negative.
    """
    if ridge < 0:
        raise ValueError(f"ridge must be at least 0, found {ridge}")
    return ridge


class MomentEquations:
    """The problem in terms of moments: as large as there are columns, whatever the number of samples.

    Args:
        weight_OK: dense weights of the kept columns, shape [O, K]; the fit decays to them. None for zeros.
        moments: of inputs Z and targets T.
        affine: fit an offset d, too (False: it is zero).
    """

    def __init__(self, weight_OK: Tensor | None, moments: CrossMoments, *, affine: bool) -> None:
        self._moments, self._affine = moments, affine
        self._gram, cross = moments.centred() if affine else (moments.inputs.second, moments.cross)
        self._dense = None if weight_OK is None else weight_OK.detach().double().to(self._gram.device)
        self._missing = cross if self._dense is None else cross - self._dense @ self._gram
        self._factor: Factor | None = None

    def factor(self, ridge: float) -> None:
        """Settle the ridge, relative to the mean energy of a column, for the solutions to come.

        Raises:
            ValueError: it is negative.
        """
        self._factor = None  # never two in memory
        self._factor = factor(self._gram, checked_ridge(ridge) * self._gram.diagonal().mean())

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
        weight = self._factor.solve(missing.T).T
        if self._dense is not None:
            weight = self._dense + weight
        shift = (target - weight @ first) / count
        return weight, shift if self._affine else torch.zeros_like(shift)

    def held_back_errors(self, held: CrossMoments, ridges: Sequence[float]) -> Iterator[Tensor]:
        """Squared error on other samples, one scalar for every ridge, each when it is asked for."""
        for ridge in ridges:
            self.factor(ridge)
            weight, shift = self.solution()
            yield _error(weight, shift, held)


def _error(weight_OK: Tensor, shift_O: Tensor, moments: CrossMoments) -> Tensor:
    """Squared error of an affine map on the samples behind some moments, summed over outputs and samples."""
    inputs, count = moments.inputs, moments.inputs.count
    # <W, W G - 2 T Z^T> in one pass over [O, K].
    crossed = torch.addmm(moments.cross, weight_OK, inputs.second, beta=-2).mul_(weight_OK).sum()
    mean_part = 2 * (shift_O * (weight_OK @ inputs.first - moments.target)).sum() + count * shift_O.square().sum()
    return moments.energy.sum() + crossed + mean_part
