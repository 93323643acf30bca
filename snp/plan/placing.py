"""Where are the matrices of a group worked on?  On the network's device, one group at a time, where they fit."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor

from snp.core.elimination import eliminate
from snp.core.reconstruct import reconstructed
from snp.core.spectrum import spectrum
from snp.core.statistics import ReaderStatistics
from snp.core.subspace import factorize

__all__ = ["computes", "place_of"]

_MAIN_MEMORY = torch.device("cpu")
# Matrices of the size of the largest Gram matrix that an ordering or a fit has in memory at once: itself, ordered,
# inverse, factor, eigenvectors, and room for the solver.
_MATRICES = 8
# Two devices round differently; a wrong operator is wrong by far more.
_SAME = 1e-6


def place_of(device: torch.device, sizes: Iterable[int]) -> torch.device:
    """The device, or main memory where it has no room, or does not compute what planners ask for.

    Args:
        device: of the network.
        sizes: columns of the Gram matrices that are worked on together.
    """
    if device.type != "cuda":
        return _MAIN_MEMORY
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    has_room = _MATRICES * sum(8 * size * size for size in sizes) <= free + unused
    return device if has_room and computes(device) else _MAIN_MEMORY


@cache
def computes(device: torch.device) -> bool:
    """Does a device give what main memory gives?  Asked once, on groups of a few units.

    Drivers and builds of PyTorch differ in which linear algebra they have in double precision.
    """
    for columns_per_unit in (1, 9):
        try:
            found = _answers(columns_per_unit, device)
        except (RuntimeError, TypeError):  # what PyTorch raises where an operator or a precision is missing
            return False
        for one, other in zip(found, _answers(columns_per_unit, _MAIN_MEMORY), strict=True):
            if not torch.allclose(one.double(), other.double(), rtol=_SAME, atol=_SAME):
                return False
    return True


def _answers(columns_per_unit: int, device: torch.device) -> list[Tensor]:
    """What planners and fits ask of matrices, asked of small ones, one of them singular; in main memory."""
    generator = torch.Generator().manual_seed(0)
    size = 8 * columns_per_unit
    samples = torch.randn(size + 8, size, generator=generator, dtype=torch.float64)
    weight = torch.randn(4, size, generator=generator, dtype=torch.float64).to(device)
    regular, singular = (part.T @ part / len(part) for part in (samples, samples[:5]))
    gram, order = regular.to(device), torch.arange(8, device=device).flip(0)
    removed, error = eliminate([ReaderStatistics(gram, weight, columns_per_unit)])
    orthogonal = [factorize(part.to(device), order, columns_per_unit).residual for part in (regular, singular)]
    folded = reconstructed(weight, gram, torch.arange(size - 2, device=device))
    return [answer.cpu() for answer in (removed, error, *orthogonal, spectrum(gram)[0], folded)]
