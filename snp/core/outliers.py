"""How much may one token say?  A few tokens of transformers are thousands of times as large as all others.

The first token of a window, or a separator, can hold nearly all energy of a layer (massive activations, Sun et al.
2024, arXiv 2402.17762), in one direction that others do not use. A normalisation divides it out again, so that an error
there is no larger than elsewhere; a sum of squares does not know that.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["limiting_scale"]


def limiting_scale(values: Tensor, largest: float, counted: Tensor | None = None) -> Tensor:
    """Factors by which tokens shrink so that none has more than a multiple of the usual energy of its sample.

    The usual energy is the median over the tokens of one sample, so that a split into batches changes nothing.

    Args:
        values: vectors of tokens, shape [N, ..., C].
        largest: how many times that energy a token may have, > 0.
        counted: which tokens are no padding, bool, shape [N, ...]; None for all.

    Returns:
        Shape [N, ...], in (0, 1]; 1 where no more than half of a sample's tokens have energy.
    """
    energy = values.float().square().sum(dim=-1) if values.element_size() < 8 else values.square().sum(dim=-1)
    known = energy if counted is None else energy.masked_fill(~counted, torch.nan)
    usual = known.flatten(1).nanmedian(dim=1).values
    limit = (largest * usual).reshape(-1, *[1] * (energy.ndim - 1))
    return torch.where((energy > limit) & (limit > 0), limit / energy, 1.0).sqrt().to(values.dtype)
