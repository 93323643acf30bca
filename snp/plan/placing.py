"""Where are the matrices of a group worked on?  On the network's device, one group at a time, where they fit."""

from __future__ import annotations

from collections.abc import Iterable

import torch

__all__ = ["place_of"]

# Matrices of the size of the largest Gram matrix that an ordering or a fit has in memory at once: itself, ordered,
# inverse, factor, eigenvectors, and room for the solver.
_MATRICES = 8


def place_of(device: torch.device, sizes: Iterable[int]) -> torch.device:
    """The device, or main memory where it has no room, or no double precision.

    Args:
        device: of the network.
        sizes: columns of the Gram matrices that are worked on together.
    """
    if device.type != "cuda":
        return torch.device("cpu")
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    needed = _MATRICES * sum(8 * size * size for size in sizes)
    return device if needed <= free + unused else torch.device("cpu")
