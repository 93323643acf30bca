"""Which orthogonal matrices does a residual stream need besides its basis?"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["level_axis", "random_rotation"]


def level_axis(size: int) -> Tensor:
    """The reflection that exchanges the first axis and the direction in which all units are equal, float64."""
    mirror = torch.full((size,), -(size**-0.5), dtype=torch.float64)
    mirror[0] += 1
    return torch.eye(size, dtype=torch.float64) - 2 * torch.outer(mirror, mirror) / mirror.square().sum()


def random_rotation(size: int, seed: int = 0) -> Tensor:
    """An orthogonal matrix, float64, the same for the same seed."""
    values = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rotation: Tensor = torch.linalg.qr(values).Q
    return rotation
