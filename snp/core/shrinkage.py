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
    mean, square = float(gram_CC.trace()) / num_columns, float(gram_CC.square().mean())
    spread = square - mean**2 / num_columns  # of the eigenvalues around their mean
    rho = min(1.0, (square + mean**2) / ((count + 1) * spread)) if spread > 0 else 1.0
    eye = torch.eye(num_columns, dtype=gram_CC.dtype, device=gram_CC.device)
    return (1 - rho) * gram_CC + rho * mean * eye
