"""Which level meets the target, and how many units does it keep in each group?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from snp.core.budget import BudgetError, bisect_level
from snp.core.orderings import descending, interleaved
from snp.graph.units import UnitGroup
from snp.plan.allocation import Allocation
from snp.plan.costs import CostModel
from snp.plan.problem import Choice, Problem, Selection
from snp.plan.twins import evened
from snp.settings import PruneSettings

__all__ = ["by_falling_score", "kept_at_level", "level_for", "moved", "refuse_unreachable", "rounded", "selected"]


def rounded(
    num_kept: int, num_units: int, round_to: int, num_partitions: int = 1, round_from: int | None = None
) -> int:
    """Kept units rounded up to a multiple of the partitions, and of ``round_to`` where the group is wide enough.

    That is, where 16 such multiples fit; with ``round_from``, where it has so many units and two multiples fit.
    """
    step = math.lcm(round_to, num_partitions)
    if num_units < (16 * step if round_from is None else max(round_from, 2 * step)):
        step = num_partitions
    return min(num_units, -(-num_kept // step) * step)


def kept_at_level(problem: Problem, settings: PruneSettings, allocation: Allocation, level: float) -> list[int]:
    """Kept units per group at a level, rounded."""
    kept = evened(problem.groups, [allocation.num_kept(number, level) for number in range(len(problem.groups))])
    return [
        rounded(count, group.num_units, settings.round_to, group.step, settings.round_from)
        for count, group in zip(kept, problem.groups, strict=True)
    ]


def level_for(problem: Problem, settings: PruneSettings, allocation: Allocation) -> float:
    """The level that the target asks for, by bisection where it is a budget.

    Raises:
        ValueError: the budget cannot be reached; the message says what can.
    """
    target = settings.target
    if not target.is_budget:
        return target.share
    cost = problem.costs.of_target(target, settings.count_embeddings)
    dense = cost(problem.costs.dense)

    def fraction(level: float) -> float:
        return cost(kept_at_level(problem, settings, allocation, level)) / dense

    try:
        return bisect_level(fraction, target.share)
    except BudgetError as error:
        raise ValueError(_refusal(settings, error.reached)) from error


def refuse_unreachable(costs: CostModel, groups: Sequence[UnitGroup], settings: PruneSettings) -> None:
    """A budget that no weights and no samples could meet: what sizes alone say, before anything is trained or measured.

    Times are not known by then, and other targets can always be met.

    Raises:
        ValueError: even with every group at its smallest more is left; the message says how much.
    """
    target = settings.target
    if not target.is_budget or target.is_timed:
        return
    cost = costs.of_target(target, settings.count_embeddings)
    least = [rounded(1, group.num_units, settings.round_to, group.step, settings.round_from) for group in groups]
    if (share := cost(least) / cost(costs.dense)) > target.share:
        raise ValueError(_refusal(settings, share))


def _refusal(settings: PruneSettings, reached: float) -> str:
    target, least = settings.target, math.ceil(1e3 * reached) / 1e3
    return (
        f"{target.option}={target.share:g} cannot be reached: with every group at its smallest, {least:.3f} of the "
        f"dense {target.kind} are left. Ask for that or more{_remedies(settings)}."
    )


def _remedies(settings: PruneSettings) -> str:
    """What else could be cut, of what was not asked for."""
    unasked = {
        "cut residual streams too (prune.streams=true)": not settings.streams,
        "in transformers cut inside attention (prune.structures=[ffn,vo,qk])": settings.structures == ("ffn",),
        "shorten prune.ignore": bool(settings.ignore),
    }
    return "".join(f", or {remedy}" for remedy, is_open in unasked.items() if is_open)


def moved(problem: Problem, settings: PruneSettings, selection: Selection) -> Selection:
    """The same orders at the level that meets the target by the costs of this problem.

    Raises:
        ValueError: the budget cannot be reached; the message says what can.
    """
    assert selection.allocation is not None, "only a selection by level can be moved"
    level = level_for(problem, settings, selection.allocation)
    kept = kept_at_level(problem, settings, selection.allocation, level)
    return replace(selection.with_kept(kept), level=level)


def selected(
    problem: Problem, settings: PruneSettings, allocation: Allocation, order: Callable[[int, int], Tensor]
) -> Selection:
    """What an allocation keeps at the level that meets the target.

    Args:
        problem: knows costs.
        settings: the target.
        allocation: of units to levels.
        order: number of a group and how many of its units stay -> its units in order of keeping, shape [U].

    Raises:
        ValueError: the budget cannot be reached; the message says what can.
    """
    level = level_for(problem, settings, allocation)
    kept = kept_at_level(problem, settings, allocation, level)
    choices = tuple(Choice(order(number, count), count) for number, count in enumerate(kept))
    return Selection(choices, level, allocation)


def by_falling_score(
    problem: Problem, settings: PruneSettings, scores: Sequence[Tensor], allocation: Allocation
) -> Selection:
    """Units of every group by falling score, shape [U] each, as many as an allocation keeps."""
    pairs = zip(scores, problem.groups, strict=True)
    orders = [interleaved(descending(score), group.num_partitions) for score, group in pairs]
    return selected(problem, settings, allocation, lambda number, _: orders[number])
