"""In which orthonormal basis of a residual stream does it cost least to leave the last directions out?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Site", "StreamBasis", "level_axis", "random_rotation", "stream_basis"]


@dataclass(frozen=True, eq=False)
class Site:
    """A place where a stream is read.

    Attributes:
        gram: mean outer product of what is read, shape [C, C], float64.
        fisher: how much the network's output moves with an error there, shape [C, C]; None where that is not known.
    """

    gram: Tensor
    fisher: Tensor | None = None


@dataclass(frozen=True, eq=False)
class StreamBasis:
    """Directions, those that are needed most first.

    Attributes:
        rows: orthogonal, shape [C, C]; row i is direction i.
        energy: mean square of what is read along each direction, mean of all places, shape [C].
        weight: how much the output moves with a squared error of that size along the direction everywhere, shape [C].
    """

    rows: Tensor
    energy: Tensor
    weight: Tensor


def stream_basis(sites: Sequence[Site]) -> StreamBasis:
    """Principal directions of what is read, each place weighed by what an error there does to the output.

    Args:
        sites: all places where the stream is read.
    """
    shares = [1.0 if site.fisher is None else float(site.fisher.trace()) / len(site.fisher) for site in sites]
    total = torch.stack([site.gram * share for site, share in zip(sites, shares, strict=True)]).sum(dim=0)
    rows = torch.linalg.eigh(total).eigenvectors.flip(1).T.contiguous()
    energies, damages = torch.zeros_like(rows[0]), torch.zeros_like(rows[0])
    for site in sites:
        energy = _along(site.gram, rows)
        energies += energy / len(sites)
        damages += energy if site.fisher is None else energy * _along(site.fisher, rows)
    order = torch.argsort(damages, descending=True, stable=True)
    tiny = torch.finfo(energies.dtype).tiny
    return StreamBasis(rows[order], energies[order], (damages / energies.clamp_min(tiny))[order])


def _along(matrix_CC: Tensor, rows_CC: Tensor) -> Tensor:
    """Diagonal of a matrix in another basis, shape [C]."""
    return ((rows_CC @ matrix_CC) * rows_CC).sum(dim=1).clamp_min(0)


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
