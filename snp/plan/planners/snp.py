"""Which units stay by Subspace Node Pruning?  Order, orthogonalise, cut at one level for all groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from snp.core import orderings
from snp.core.correction import corrected
from snp.core.cuts import Curve
from snp.core.elimination import eliminate
from snp.core.gram import partial_trace
from snp.core.orderings import GroupStatistics
from snp.core.redundancy import find_copies
from snp.core.subspace import factorize
from snp.graph.units import UnitGroup
from snp.plan.allocation import Curves
from snp.plan.level import kept_at_level, level_for
from snp.plan.pieces import cut_of, tried
from snp.plan.problem import Choice, Problem, Selection
from snp.plan.removal import block_curves, tried_blocks
from snp.plan.statistics import constant_units, damage_of, group_statistics, shrunk_statistics
from snp.settings import PruneSettings

__all__ = ["choose"]

_ROUNDS = 1  # of trials at the allocation that earlier trials lead to


def choose(problem: Problem, settings: PruneSettings) -> Selection:
    """Units by ``settings.ordering``, as many as ``settings.cut`` keeps at the level that meets the target."""
    generator = torch.Generator().manual_seed(settings.seed)
    choices = []
    for group in problem.groups:
        choices.append(_uncut(problem, settings, group, generator))
        problem.progress.step()
    blocks = tried_blocks(problem)
    if settings.cut_name == "output" and problem.trial is not None and problem.target.is_budget:
        choices = _tried(problem, choices, blocks)
    allocation = _allocation(problem, settings.cut_name, choices, blocks)
    level = level_for(problem, allocation)
    return Selection(tuple(choices), level.value, allocation).with_kept(level.kept)


def _uncut(problem: Problem, settings: PruneSettings, group: UnitGroup, generator: torch.Generator) -> Choice:
    """The units of a group in order, all of them kept, and what each says of those behind it."""
    statistics = group_statistics(problem, group, generator)
    whole, width = statistics.gram, statistics.columns_per_unit
    constant = constant_units(problem, group, settings.fit) if settings.fit.fits_offsets else None
    copies = find_copies(partial_trace(whole, width), group.num_partitions, constant)
    if settings.ordering_name in orderings.BLIND:
        copies = copies.none()
    statistics = copies.left_out_of(statistics)
    if settings.needs_sensitivity:
        statistics = shrunk_statistics(problem, group, statistics)
    few, curve = _ordered(statistics, settings, group.num_partitions)
    order = orderings.interleaved(copies.with_last(few), group.num_partitions)
    variance, damage = factorize(whole, order, width).kept_variance(), None
    if settings.cut_name == "output":
        damage = (copies.damage(order, curve) / 2).cpu()  # nats, see snp.measure.sensitivity
    return Choice(order.cpu(), group.num_units, variance.cpu(), damage)


def _ordered(
    statistics: GroupStatistics, settings: PruneSettings, num_partitions: int
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Units by the ordering, shape [U], and the damage along an order of them: [U] -> [U + 1].

    Elimination knows the damage along its own order, up to its ridge; partitions make another order of it.
    """
    if settings.ordering_name == "output" and num_partitions == 1:
        order, error = eliminate(statistics.readers)
        return order, lambda _: error
    return orderings.ordered(settings.ordering_name, statistics), partial(damage_of, statistics)


def _allocation(problem: Problem, cut_name: str, choices: Sequence[Choice], blocks: Sequence[float] = ()) -> Curves:
    """Of choices, and of damages of blocks."""
    curves, units = _curves(problem, choices)
    return Curves(cut_name, tuple(curves), block_curves(problem, blocks, curves, units) if blocks else ())


def _tried(problem: Problem, choices: Sequence[Choice], blocks: Sequence[float]) -> list[Choice]:
    """Damages corrected by trial cuts: first at equal shares of the units, then where the corrected ones would cut."""
    found = [*choices]
    for cut_name in ("uniform", *["output"] * _ROUNDS):
        allocation = _allocation(problem, cut_name, found, blocks if cut_name == "output" else ())
        kept = _kept_on_trial(problem, allocation)
        with problem.progress.stage("try cuts", len(kept)):
            new = [n for n, count in enumerate(kept) if count < len(found[n].order) and count not in found[n].tried]
            pieces = [cut_of(problem.groups[n], found[n].order[: kept[n]]) for n in new]
            distances = problem.workers.of("trial cuts", pieces, partial(tried, problem), problem.progress.step)
            for n, distance in zip(new, distances, strict=True):
                found[n] = replace(found[n], tried={**found[n].tried, kept[n]: distance})
        found = [_corrected(predicted, each.tried) for predicted, each in zip(choices, found, strict=True)]
    return found


def _kept_on_trial(problem: Problem, allocation: Curves) -> list[int]:
    """Units per group at the level that meets the target; half of them where it takes blocks to meet it."""
    try:
        return level_for(problem, allocation).kept
    except ValueError:
        if not problem.blocks:
            raise
        return kept_at_level(problem, allocation, 0.5)


def _corrected(predicted: Choice, tried: Mapping[int, float]) -> Choice:
    assert predicted.damage is not None, "trials correct damages"
    return replace(predicted, damage=corrected(predicted.damage, tried), tried=tried)


def _curves(problem: Problem, choices: Sequence[Choice]) -> tuple[list[Curve], tuple[float, float]]:
    """Curves with damage and cost as shares of the whole network's, and these two."""
    variances = [choice.kept_variance for choice in choices if choice.kept_variance is not None]
    damages = [choice.damage for choice in choices if choice.damage is not None]
    if not damages:
        return [Curve(variance) for variance in variances], (1.0, 1.0)
    cost = problem.costs.of_target(problem.target)
    dense = problem.costs.dense
    whole = cost(dense)
    # A unit's cost depends on how many its neighbours keep; the dense network's is the common yardstick.
    # Of partitioned groups one unit of every partition goes: less is no whole number of kernel columns.
    # Single units hardly show in measured times, so there it is half of a group.
    parts = 2 if problem.target.is_timed else 1
    steps = [
        group.num_partitions * max(1, (parts - 1) * (group.num_units // (2 * group.num_partitions)))
        for group in problem.groups
    ]
    fewer = ([n - steps[i] * (i == j) for j, n in enumerate(dense)] for i in range(len(dense)))
    unit = [(whole - cost(kept)) / step for kept, step in zip(fewer, steps, strict=True)]
    all_units = sum(count * size for count, size in zip(dense, unit, strict=True)) or 1
    all_damage = float(sum(float(damage[0]) for damage in damages)) or 1.0
    curves = [
        Curve(variance, damage / all_damage, size / all_units)
        for variance, damage, size in zip(variances, damages, unit, strict=True)
    ]
    return curves, (all_damage, all_units)
