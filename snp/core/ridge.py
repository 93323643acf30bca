"""How much should a fit be held to the dense weights?  As much as serves samples that it was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from snp.core.gram import CrossMoments
from snp.core.reconstruct import refit

__all__ = ["choose_ridge", "held_back_error"]


def held_back_error(weight_OK: Tensor, shift_O: Tensor, moments: CrossMoments) -> float:
    """Squared error of an affine map on the samples behind some moments, summed over outputs and samples."""
    inputs, count = moments.inputs, moments.inputs.count
    quadratic = torch.einsum("ok,kl,ol->", weight_OK, inputs.second, weight_OK)
    crossed = (weight_OK * moments.cross).sum()
    mean_part = 2 * (shift_O * (weight_OK @ inputs.first - moments.target)).sum() + count * shift_O.square().sum()
    return float(moments.energy.sum() - 2 * crossed + quadratic + mean_part)


def choose_ridge(
    weight_OK: Tensor, fitted: CrossMoments, held_back: CrossMoments, candidates: Sequence[float], *, affine: bool
) -> float:
    """The candidate whose fit on one part of the data errs least on the other."""
    errors = [held_back_error(*refit(weight_OK, fitted, ridge, affine=affine), held_back) for ridge in candidates]
    return candidates[min(range(len(candidates)), key=errors.__getitem__)]
