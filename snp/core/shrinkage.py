"""How much of a Gram matrix is chance?  Fewer samples than columns make every column look explained by the others."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["shrunk"]


def shrunk(gram_CC: Tensor, count: int) -> Tensor:
    """Oracle-approximating shrinkage, OAS (Chen et al. 2010, equation 23 without its terms in 2 / C).

    Towards a multiple of the identity: (1 - rho) G + rho tr(G) / C I. With many samples rho goes to zero. With fewer
    samples than columns the matrix gets full rank, so that no column comes out as a combination of others only because
    there are too few samples to disagree.

    Args:
        gram_CC: mean outer product of the samples, shape [C, C], float64.
        count: number of samples behind it, >= 1.

    Returns:
        Shape [C, C], float64, of the same trace.
    """
    num_columns = len(gram_CC)
    mean = gram_CC.diagonal().mean()
    square = torch.linalg.vector_norm(gram_CC).square() / gram_CC.numel()
    spread = square - mean.square() / num_columns  # of the eigenvalues around their mean
    share = (square + mean.square()) / ((count + 1) * spread)
    rho = torch.where(spread > 0, share.clamp_max(1.0), 1.0)
    result = (1 - rho) * gram_CC
    result.diagonal().add_(rho * mean)
    return result
