"""In which order should units be kept?  One file per ordering, each with ``order(statistics) -> Tensor``.

Add an ordering: put ``<name>.py`` in this folder; ``prune.ordering=<name>`` and the contract tests find it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from snp.core.agreed import checked_order
from snp.core.registry import Registry
from snp.core.spectrum import is_regular, spectrum
from snp.core.statistics import GroupStatistics, ReaderStatistics
from snp.core.subspace import columns_of, factorize

__all__ = [
    "BLIND",
    "REGISTRY",
    "GroupStatistics",
    "ReaderStatistics",
    "descending",
    "interleaved",
    "inverse_spectrum",
    "load",
    "names",
    "ordered",
    "rescored",
]

# Orderings that do not claim to see which units say the same: controls, and scores of units one by one.
BLIND = frozenset({"random", "residual_once", "saw", "variance", "zca_once"})
# Energy that the units before leave of a unit which is a combination of them, relative to its own.
_DEPENDENT = 1e-12


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


def ordered(name: str, statistics: GroupStatistics) -> Tensor:
    """The units of a group by the ordering of that name, most important first, shape [U].

    Raises:
        ValueError: there is no such ordering, or what it gives is no permutation of the units.
    """
    return checked_order(load(name)(statistics), statistics.num_units, f"{REGISTRY.option}={name}")


def descending(score_U: Tensor) -> Tensor:
    """Unit indices by falling score, ties by index, shape [U]."""
    return torch.argsort(score_U, descending=True, stable=True)


def rescored(statistics: GroupStatistics, score: Callable[[GroupStatistics], Tensor]) -> Tensor:
    """Units by falling score, scored once more when those are gone that depend on better ones.

    A unit that others explain gets a low score, and so does the only other one that explains it, although it is needed
    once the first is cut. So along the order of the scores units that are combinations of those before them go to the
    end, the ones of least energy last, and the others are scored again among themselves. Where no unit depends on
    others this is the order of the scores.

    Args:
        statistics: of the group.
        score: of every unit, shape [U].
    """
    order = descending(score(statistics))
    gram, width = statistics.gram.double(), statistics.columns_per_unit
    if is_regular(gram):
        return order
    energy = gram.diagonal().reshape(-1, width).sum(dim=1)[order]
    depends = factorize(gram, order, width).residual <= _DEPENDENT * energy
    units, rest = order[~depends].sort().values, order[depends]
    if len(units) == 0 or len(rest) == 0:
        return order
    columns = columns_of(units, width)
    others = replace(statistics, gram=gram[columns][:, columns], outgoing=statistics.outgoing[:, columns], readers=())
    return torch.cat([units[descending(score(others))], rest[descending(energy[depends])]])


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
