"""What should a layer give out when a rectifier behind it hides part of its errors?

Where the dense network's pre-activation s_d lies beyond a bound, only what a pre-activation s has on the other side of
the bound is an error; between the bounds s should be s_d. The sum of these squares is convex, at least the squared
error behind the rectifier, and zero with it. It is majorised, with equality at the present s, by a plain squared error
whose target beyond a bound is s itself as long as s lies there, too, and the bound otherwise. Least squares on that
target cannot raise the loss, so rounds of both go down to its minimum (majorise and minimise).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["rectified_target"]


def rectified_target(
    target_NO: Tensor, predicted_NO: Tensor, dense_NO: Tensor, scale_O: Tensor, low: float, high: float
) -> Tensor:
    """Target of the next round of least squares.

    Args:
        target_NO: what makes the pre-activations those of the dense network.
        predicted_NO: what the layer gives out with its present weights.
        dense_NO: pre-activations of the dense network; those of the changed one are
            dense + scale * (predicted - target).
        scale_O: of the affine map between the layer and the rectifier; where it is zero the target stays.
        low: lower bound of the rectifier, infinite where it has none.
        high: upper bound.

    Returns:
        Shape [N, O].
    """
    present = dense_NO + scale_O * (predicted_NO - target_NO)
    wanted = torch.where(dense_NO <= low, present.clamp_max(low), dense_NO)
    wanted = torch.where(dense_NO >= high, present.clamp_min(high), wanted)
    moved = (wanted - dense_NO) / torch.where(scale_O == 0, 1.0, scale_O)
    return torch.where(scale_O == 0, target_NO, target_NO + moved)
