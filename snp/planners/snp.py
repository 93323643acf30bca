"""Which units stay by Subspace Node Pruning?  Order, orthogonalise, cut at one level for all groups."""

from __future__ import annotations

import torch
from torch import Tensor

from snp.core import cuts, orderings
from snp.core.cuts import Curve
from snp.core.subspace import factorize
from snp.planners import Choice, Problem, Selection
from snp.planners._level import kept_at_level, level_for
from snp.planners._statistics import damage_of, group_statistics
from snp.settings import PruneSettings

__all__ = ["choose"]


def choose(problem: Problem, settings: PruneSettings) -> Selection:
    """Units by ``settings.ordering``, as many as ``settings.cut`` keeps at the level that meets the target."""
    ordering, cut = orderings.load(settings.ordering_name), cuts.load(settings.cut_name)
    generator = torch.Generator().manual_seed(settings.seed)
    orders: list[Tensor] = []
    variances: list[Tensor] = []
    damages: list[Tensor] = []
    for group in problem.groups:
        statistics = group_statistics(problem, group, generator)
        orders.append(orderings.interleaved(ordering(statistics), group.num_partitions))
        variances.append(factorize(statistics.gram, orders[-1], statistics.columns_per_unit).kept_variance())
        if settings.cut_name == "output":
            damages.append(damage_of(statistics, orders[-1]))
    curves = _curves(problem, settings, variances, damages)

    def num_kept(group: int, level: float) -> int:
        return cut(curves[group], level)

    level = level_for(problem, settings, num_kept)
    kept = kept_at_level(problem, settings, num_kept, level)
    measured: list[Tensor | None] = [*damages] if damages else [None] * len(orders)
    choices = (Choice(*parts) for parts in zip(orders, kept, variances, measured, strict=True))
    return Selection(tuple(choices), level)


def _curves(problem: Problem, settings: PruneSettings, variances: list[Tensor], damages: list[Tensor]) -> list[Curve]:
    """Curves with damage and cost as shares of the whole network's."""
    if not damages:
        return [Curve(variance) for variance in variances]
    cost = problem.costs.of_target(settings.target[0], settings.count_embeddings)
    dense = problem.costs.dense
    whole = cost(dense)
    # A unit's cost depends on how many its neighbours keep; the dense network's is the common yardstick.
    # Of partitioned groups one unit of every partition goes: less is no whole number of kernel columns.
    # Single units hardly show in measured times, so there it is half of a group.
    parts = 2 if settings.target[0] == "latency" else 1
    steps = [
        group.num_partitions * max(1, (parts - 1) * (group.num_units // (2 * group.num_partitions)))
        for group in problem.groups
    ]
    fewer = ([n - steps[i] * (i == j) for j, n in enumerate(dense)] for i in range(len(dense)))
    unit = [(whole - cost(kept)) / step for kept, step in zip(fewer, steps, strict=True)]
    all_units = sum(count * size for count, size in zip(dense, unit, strict=True)) or 1
    all_damage = float(sum(float(damage[0]) for damage in damages)) or 1.0
    return [
        Curve(variance, damage / all_damage, size / all_units)
        for variance, damage, size in zip(variances, damages, unit, strict=True)
    ]
