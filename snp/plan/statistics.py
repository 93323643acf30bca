"""What do a group's readers see of it, and what do they make of it?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from snp.core.gram import Moments, partial_trace, select_columns
from snp.core.orderings import GroupStatistics, ReaderStatistics
from snp.core.reconstruct import output_error
from snp.core.shrinkage import shrunk
from snp.core.subspace import factorize
from snp.graph.grouped_kernels import expanded
from snp.graph.units import Slice, UnitGroup
from snp.plan.placing import place_of
from snp.plan.problem import LogitStatistics, Problem
from snp.settings import FitSettings

__all__ = ["constant_units", "damage_of", "group_statistics", "shrunk_statistics", "summed_scores"]

# Variance beside energy: above rounding of float64 sums of float32 values.
_SAME = 1e-12


def group_statistics(problem: Problem, group: UnitGroup, generator: torch.Generator) -> GroupStatistics:
    """Statistics of a group over all its readers, where :func:`snp.plan.placing.place_of` puts them.

    Each reader's Gram matrix is divided by its trace, so that their sum is the Gram matrix of the readers'
    activations side by side, each reader with the same total energy. Kernel elements and unequal numbers of columns
    count as samples there; the readers one by one keep their columns.
    """
    consumers, logits = _looked_at(problem, group), problem.logits.get(group.name)
    place = place_of(problem.device, (problem.readers[member.tensor].num_columns for member in group.consumers))
    readers = tuple(_reader_statistics(problem, member, place) for member in consumers)
    if logits is not None:
        readers = (*readers, _product_statistics(logits, place))
    widths = {reader.columns_per_unit for reader in readers}
    has_patches = any(_patch_size(problem, member) > 1 for member in consumers)
    by_unit = len(widths) > 1 or has_patches
    width = 1 if by_unit else widths.pop()
    gram = sum(
        (_normalised(partial_trace(r.gram, r.columns_per_unit) if by_unit else r.gram) for r in readers),
        torch.zeros((), dtype=torch.float64, device=readers[0].gram.device),
    )
    outgoing = torch.cat(
        [_outgoing(problem, member, width) for member in consumers]
        + ([logits.energy.sqrt().diag()] if logits is not None else [])
    ).to(place)
    return GroupStatistics(gram, outgoing, width, generator, readers)


def _looked_at(problem: Problem, group: UnitGroup) -> tuple[Slice, ...]:
    """The readers whose moments say what units are worth; of a stream :mod:`snp.core.stream_bases` says so."""
    return () if group.kind == "width" and group.name in problem.logits else group.consumers


def constant_units(problem: Problem, group: UnitGroup, fit: FitSettings) -> Tensor:
    """Units that had one value in all samples, at all positions, where every reader is fitted a constant, bool [U].

    None where all units had: then the samples are one. None for layers that are folded by channel instead of fitted,
    which get no constant, nor for kernels that are measured so: where they are padded they see ends of a constant unit.
    """
    found = torch.ones(group.num_units, dtype=torch.bool)
    for member in _looked_at(problem, group):
        reader, moments = problem.readers[member.tensor], problem.moments[member.tensor]
        kernel, columns = problem.weights[member.tensor].shape[2:], reader.columns(member)
        by_channel = fit.conv_gram != "patch" or (kernel.numel() > 1 and reader.patch is None)
        is_fitted = reader.takes_offset and (not (by_channel or reader.by_operator) if kernel else reader.fits_outputs)
        if not is_fitted or moments.count < 2:
            return torch.zeros_like(found)
        energy, mean = moments.second.diagonal().cpu()[columns], moments.first.cpu()[columns] / moments.count
        found &= (energy - moments.count * mean.square() <= _SAME * energy).all(dim=1)
    return found & (group.kind in ("conv", "ffn")) & (not bool(found.all()))


def shrunk_statistics(problem: Problem, group: UnitGroup, statistics: GroupStatistics) -> GroupStatistics:
    """The same with the readers' Gram matrices shrunk, which few samples fill with chance."""
    counts = [problem.moments[member.tensor].count for member in _looked_at(problem, group)]
    pairs = zip(statistics.readers[: len(counts)], counts, strict=True)
    measured = (replace(reader, gram=shrunk(reader.gram, max(count, 1))) for reader, count in pairs)
    return replace(statistics, readers=(*measured, *statistics.readers[len(counts) :]))


def _product_statistics(logits: LogitStatistics, place: torch.device) -> ReaderStatistics:
    """Products of queries and keys as a reader: each unit adds a term of its own to the logits."""
    return ReaderStatistics(logits.energy.diag().to(place), logits.weight.sqrt().diag().to(place), 1)


def _normalised(gram: Tensor) -> Tensor:
    energy = float(gram.trace())
    return gram / energy if energy > 0 else gram


def _patch_size(problem: Problem, member: Slice) -> int:
    patch = problem.readers[member.tensor].patch
    return 1 if patch is None else patch.size


def _whole_weight(problem: Problem, member: Slice) -> Tensor:
    """The reader's weight over all inputs, outputs as rows, float64, shape [O, I, ...].

    That of a grouped convolution is block-diagonal.
    """
    reader = problem.readers[member.tensor]
    return expanded(reader.rows(problem.weights[member.tensor].detach().double()), reader.num_blocks)


def _flat_weight(problem: Problem, member: Slice) -> Tensor:
    """Weight over Gram columns with everything behind them as further outputs, shape [O * p, num_columns]."""
    weight, reader = _whole_weight(problem, member), problem.readers[member.tensor]
    return weight.reshape(len(weight), reader.num_columns, -1).movedim(2, 1).reshape(-1, reader.num_columns)


def summed_scores(problem: Problem, group: UnitGroup, score: Callable[[Tensor, Moments], Tensor]) -> Tensor:
    """Scores of columns, summed over a unit's columns and all readers, shape [U], float64, in main memory.

    Args:
        problem: weights and moments.
        group: whose units are scored.
        score: weight [O, C] and moments of a reader's C inputs -> a score of each column, shape [C].
    """
    total = torch.zeros(group.num_units, dtype=torch.float64)
    for member in group.consumers:
        found = score(_flat_weight(problem, member), problem.moments[member.tensor])
        total += found[problem.readers[member.tensor].columns(member)].sum(dim=1).cpu()
    return total


def _outgoing(problem: Problem, member: Slice, width: int) -> Tensor:
    """Weights that read a group's units, absolute values summed where a unit's columns count as one, [O, U * b]."""
    columns = problem.readers[member.tensor].columns(member)
    weight = _flat_weight(problem, member)[:, columns.reshape(-1)]
    return weight if width > 1 or columns.shape[1] == 1 else weight.reshape(len(weight), len(columns), -1).abs().sum(2)


def _reader_statistics(problem: Problem, member: Slice, place: torch.device) -> ReaderStatistics:
    reader, moments = problem.readers[member.tensor], problem.moments[member.tensor]
    columns = reader.columns(member)
    gram = select_columns(moments.second.to(place), columns.reshape(-1).to(place)) / max(moments.count, 1)
    weight = _whole_weight(problem, member)
    weight = weight.reshape(len(weight), reader.num_columns, -1)[:, columns.reshape(-1)].to(place)
    fisher = problem.sensitivity.get(member.tensor)
    if fisher is not None:
        # By eigenvalues, although a Cholesky factor would cost less: sums of single precision are positive up to their
        # rounding only, which small pivots would enlarge.
        values, vectors = torch.linalg.eigh(fisher.to(weight.device))
        # Any root will do, and one with as many rows as the rank: readers are asked for squared lengths only.
        is_real = values > values[-1].clamp_min(0) * len(values) * torch.finfo(values.dtype).eps
        root = (vectors[:, is_real] * values[is_real].sqrt()).T
        weight = (root @ weight.reshape(len(weight), -1)).reshape(len(root), *weight.shape[1:])
    return ReaderStatistics(gram, weight.movedim(2, 1).reshape(-1, weight.shape[1]), columns.shape[1])


def damage_of(statistics: GroupStatistics, order: Tensor) -> Tensor:
    """Squared error at all readers' outputs with the first k units of an order kept and refitted, shape [U + 1].

    Where readers' weights are scaled by their sensitivity, half of it is a divergence in nats per sample.
    """
    total = torch.zeros(len(order) + 1, dtype=torch.float64, device=order.device)
    for reader in statistics.readers:
        subspace = factorize(reader.gram, order, reader.columns_per_unit)
        total = total + output_error(reader.weighted, subspace, reader.columns_per_unit)
    return total
