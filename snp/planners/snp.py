"""Which units stay by Subspace Node Pruning?  Order, orthogonalise, cut at one level for all groups."""

from __future__ import annotations

import torch
from torch import Tensor

from snp.core import cuts, orderings
from snp.core.gram import partial_trace, select_columns
from snp.core.orderings import GroupStatistics
from snp.core.subspace import Subspace, factorize
from snp.planners import Choice, Problem, Selection
from snp.planners._level import kept_at_level, level_for
from snp.settings import PruneSettings
from snp.units import UnitGroup

__all__ = ["choose", "group_statistics"]


def choose(problem: Problem, settings: PruneSettings) -> Selection:
    """Units by ``settings.ordering``, as many as ``settings.cut`` keeps at the level that meets the target."""
    ordering, cut = orderings.load(settings.ordering), cuts.load(settings.cut)
    generator = torch.Generator().manual_seed(settings.seed)
    subspaces: list[Subspace] = []
    for group in problem.groups:
        statistics = group_statistics(problem, group, generator)
        subspaces.append(factorize(statistics.gram, ordering(statistics), statistics.columns_per_unit))

    def num_kept(group: int, level: float) -> int:
        return cut(subspaces[group], level)

    level = level_for(problem, settings, num_kept)
    kept = kept_at_level(problem, settings, num_kept, level)
    choices = (
        Choice(subspace.order, count, subspace.kept_variance()) for subspace, count in zip(subspaces, kept, strict=True)
    )
    return Selection(tuple(choices), level)


def group_statistics(problem: Problem, group: UnitGroup, generator: torch.Generator) -> GroupStatistics:
    """Statistics of a group over all its readers.

    Each reader's Gram matrix is divided by its trace, so that their sum is the Gram matrix of the readers'
    activations side by side, each reader with the same total energy.
    """
    parts = [_reader_part(problem, group, number) for number in range(len(group.consumers))]
    widths = {width for _, _, width in parts}
    if len(widths) > 1:
        parts = [
            (partial_trace(gram, width), outgoing.reshape(-1, group.num_units, width).sum(dim=-1), 1)
            for gram, outgoing, width in parts
        ]
    grams = [gram / energy if (energy := float(gram.trace())) > 0 else gram for gram, _, _ in parts]
    outgoing = torch.cat([weights for _, weights, _ in parts])
    return GroupStatistics(torch.stack(grams).sum(dim=0), outgoing, parts[0][2], generator)


def _reader_part(problem: Problem, group: UnitGroup, number: int) -> tuple[Tensor, Tensor, int]:
    """Gram matrix [U * b, U * b], absolute outgoing weights [1, U * b] and b of one reader."""
    member = group.consumers[number]
    reader, weight = problem.readers[member.tensor], problem.weights[member.tensor]
    columns = reader.columns(member)
    gram = select_columns(problem.moments[member.tensor].second, columns.reshape(-1))
    per_column = weight.detach().double().abs().reshape(weight.shape[0], reader.num_columns, -1).sum(dim=(0, 2))
    return gram, per_column[columns.reshape(-1)][None], columns.shape[1]
