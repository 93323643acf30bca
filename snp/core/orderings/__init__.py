"""In which order should units be kept?  One file per ordering, each with ``order(statistics) -> Tensor``.

Add an ordering: put ``<name>.py`` in this folder; ``prune.ordering=<name>`` and the contract tests find it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from snp.core.registry import Registry
from snp.core.spectrum import spectrum
from snp.core.statistics import GroupStatistics, ReaderStatistics

__all__ = [
    "REGISTRY",
    "GroupStatistics",
    "ReaderStatistics",
    "descending",
    "interleaved",
    "inverse_spectrum",
    "load",
    "names",
]


REGISTRY = Registry("prune.ordering", "snp.orderings", __name__, "order")


def names() -> list[str]:
    """Names of all orderings: the files of this folder, and entry points of ``snp.orderings``."""
    return REGISTRY.names()


def load(name: str) -> Callable[[GroupStatistics], Tensor]:
    """The ordering of that name: a function to a permutation of the units, most important first, shape [U].

    Raises:
        ValueError: there is no such ordering.
    """
    function: Callable[[GroupStatistics], Tensor] = REGISTRY.load(name)
    return function


def descending(score_U: Tensor) -> Tensor:
    """Unit indices by falling score, ties by index, shape [U]."""
    return torch.argsort(score_U, descending=True, stable=True)


def interleaved(order_U: Tensor, num_partitions: int) -> Tensor:
    """The best unit of each partition, then the second best of each, and so on.

    Args:
        order_U: a permutation of the units, most important first, shape [U].
        num_partitions: P; unit u lies in partition u // (U / P).

    Returns:
        A permutation whose first k units, for every multiple k of P, are the best k / P of each partition.
    """
    per_partition = len(order_U) // num_partitions
    rank = torch.empty_like(order_U)
    for partition in range(num_partitions):
        inside = order_U // per_partition == partition
        rank[inside] = torch.arange(per_partition, device=order_U.device)
    return order_U[torch.argsort(rank, stable=True)]


def inverse_spectrum(statistics: GroupStatistics, power: float) -> Tensor:
    """Diagonal blocks of gram^power for a negative power, shape [U, b, b].

    Directions without energy get the smallest eigenvalue that float64 can tell from zero, so that dead and
    dependent units come out as explained by the others.
    """
    values, vectors = spectrum(statistics.gram)
    floor = values[-1].clamp_min(0) * len(vectors) * torch.finfo(values.dtype).eps
    floor = torch.clamp_min(floor, torch.finfo(values.dtype).tiny)
    rows = vectors.reshape(statistics.num_units, statistics.columns_per_unit, -1)
    found = torch.einsum("ubc,c,udc->ubd", rows, values.clamp_min(floor) ** power, rows)
    if len(values) == len(vectors):
        return found
    # Directions outside the range: what the eigenvectors found leave of the identity.
    rest = torch.eye(statistics.columns_per_unit, dtype=found.dtype, device=found.device) - rows @ rows.mT
    return found + floor**power * rest
