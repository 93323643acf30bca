"""In which orthonormal basis of a residual stream does it cost least to leave the last directions out?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from snp.core.kept_subspace import Place, climbed

__all__ = ["Site", "StreamBasis", "stream_basis"]

_SHARES = (0.9, 0.75, 0.6, 0.45, 0.3)  # of directions, for nested subspaces
_DEAD = 1e-12  # energy beside the largest one: nobody reads anything there
_STEPS = 30  # of each climb


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
    """Directions in the order in which they are needed.

    With sensitivities these are nested subspaces of falling size, each the best one found inside the one before, and a
    direction is worth what leaving it out costs once all readers are fitted anew. Without them they are the principal
    directions of what is read, and each is worth its energy.

    Args:
        sites: all places where the stream is read.
    """
    damages: Tensor | None = None
    if all(site.fisher is not None for site in sites):
        rows, damages = _nested(sites)
    else:
        rows = _sorted(torch.eye(len(sites[0].gram), dtype=torch.float64), _weighed(sites)).T.contiguous()
    energies = torch.stack([_along(site.gram, rows) for site in sites]).mean(dim=0)
    damages = energies if damages is None else torch.where(energies > _DEAD * energies.max(), damages, 0.0)
    return StreamBasis(rows, energies, damages / energies.clamp_min(torch.finfo(energies.dtype).tiny))


def _weighed(sites: Sequence[Site]) -> Tensor:
    """Gram matrices of all places, each weighed by what an error there does to the output."""
    total = torch.zeros_like(sites[0].gram)
    for site in sites:
        total += site.gram * (1.0 if site.fisher is None else float(site.fisher.trace()))
    return total


def _nested(sites: Sequence[Site]) -> tuple[Tensor, Tensor]:
    """Directions as rows, those that go first last, and what leaving each of them out costs."""
    places = [Place.of(site.gram, site.fisher) for site in sites if site.fisher is not None]
    weighed, total = _weighed(sites), sum(place.total for place in places)
    size = len(weighed)
    basis, lost = _sorted(torch.eye(size, dtype=torch.float64), weighed), 0.0
    parts, damages = list[Tensor](), list[Tensor]()
    for share in _SHARES:
        kept = max(1, round(share * size))
        if kept >= basis.shape[1]:
            continue
        inside = [place.inside(basis) for place in places]
        found, value = climbed(inside, torch.eye(basis.shape[1], dtype=torch.float64)[:, :kept], _STEPS)
        gone = _sorted(basis @ _complement(found), weighed)
        parts.append(gone)
        damages.append(_spread(gone.shape[1], max(total - value - lost, 0.0)))
        basis, lost = _sorted(basis @ found, weighed), max(total - value, lost)
    parts.append(basis)
    damages.append(_spread(basis.shape[1], max(total - lost, 0.0)))
    # What goes later is worth no less.
    worth = torch.cat(damages[::-1]).flip(0).cummax(dim=0).values.flip(0)
    return torch.cat(parts[::-1], dim=1).T.contiguous(), worth


def _sorted(basis_CK: Tensor, weighed_CC: Tensor) -> Tensor:
    """The same subspace in its principal directions, the largest first."""
    vectors: Tensor = torch.linalg.eigh(basis_CK.T @ weighed_CC @ basis_CK).eigenvectors
    return basis_CK @ vectors.flip(1)


def _complement(basis_CK: Tensor) -> Tensor:
    """Orthonormal columns that span what a subspace leaves out, shape [C, C - K]."""
    whole: Tensor = torch.linalg.qr(basis_CK, mode="complete").Q
    return whole[:, basis_CK.shape[1] :]


def _spread(count: int, damage: float) -> Tensor:
    """A damage shared out among so many directions, a little more of it to the first."""
    parts: Tensor = torch.linspace(1.1, 0.9, count, dtype=torch.float64) / count
    return damage * parts


def _along(matrix_CC: Tensor, rows_CC: Tensor) -> Tensor:
    """Diagonal of a matrix in another basis, shape [C]."""
    return ((rows_CC @ matrix_CC) * rows_CC).sum(dim=1).clamp_min(0)
