"""Which level meets the target, and how many units does it keep in each group?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from snp.core.budget import BudgetError, Target, bisect_level
from snp.core.orderings import descending, interleaved
from snp.graph.units import UnitGroup
from snp.plan.allocation import Allocation
from snp.plan.costs import CostModel
from snp.plan.problem import Choice, Problem, Selection
from snp.plan.twins import evened

__all__ = ["by_falling_score", "kept_at_level", "level_for", "moved", "refuse_unreachable", "selected"]


def kept_at_level(problem: Problem, target: Target, allocation: Allocation, level: float) -> list[int]:
    """Kept units per group at a level, rounded."""
    kept = evened(problem.groups, [allocation.num_kept(number, level) for number in range(len(problem.groups))])
    return [
        target.rounding.up(count, group.num_units, group.step)
        for count, group in zip(kept, problem.groups, strict=True)
    ]


def level_for(problem: Problem, target: Target, allocation: Allocation) -> float:
    """The level that the target asks for, by bisection where it is a budget.

    Raises:
        ValueError: the budget cannot be reached; the message says what can.
    """
    if not target.is_budget:
        return target.share
    cost = problem.costs.of_target(target)
    dense = cost(problem.costs.dense)

    def fraction(level: float) -> float:
        return cost(kept_at_level(problem, target, allocation, level)) / dense

    try:
        return bisect_level(fraction, target.share)
    except BudgetError as error:
        raise ValueError(_refusal(target, error.reached)) from error


def refuse_unreachable(costs: CostModel, groups: Sequence[UnitGroup], target: Target) -> None:
    """A budget that no weights and no samples could meet: what sizes alone say, before anything is trained or measured.

    Times are not known by then, and other targets can always be met.

    Raises:
        ValueError: even with every group at its smallest more is left; the message says how much.
    """
    if not target.is_budget or target.is_timed:
        return
    cost = costs.of_target(target)
    least = [target.rounding.up(1, group.num_units, group.step) for group in groups]
    if (share := cost(least) / cost(costs.dense)) > target.share:
        raise ValueError(_refusal(target, share))


def _refusal(target: Target, reached: float) -> str:
    least = math.ceil(1e3 * reached) / 1e3
    remedies = "".join(f", or {remedy}" for remedy in target.remedies)
    return (
        f"{target.option}={target.share:g} cannot be reached: with every group at its smallest, {least:.3f} of the "
        f"dense {target.kind} are left. Ask for that or more{remedies}."
    )


def moved(problem: Problem, target: Target, selection: Selection) -> Selection:
    """The same orders at the level that meets the target by the costs of this problem.

    Raises:
        ValueError: the budget cannot be reached; the message says what can.
    """
    assert selection.allocation is not None, "only a selection by level can be moved"
    level = level_for(problem, target, selection.allocation)
    kept = kept_at_level(problem, target, selection.allocation, level)
    return replace(selection.with_kept(kept), level=level)


def selected(
    problem: Problem, target: Target, allocation: Allocation, order: Callable[[int, int], Tensor]
) -> Selection:
    """What an allocation keeps at the level that meets the target.

    Args:
        problem: knows costs.
        target: what is asked for.
        allocation: of units to levels.
        order: number of a group and how many of its units stay -> its units in order of keeping, shape [U].

    Raises:
        ValueError: the budget cannot be reached; the message says what can.
    """
    level = level_for(problem, target, allocation)
    kept = kept_at_level(problem, target, allocation, level)
    choices = tuple(Choice(order(number, count), count) for number, count in enumerate(kept))
    return Selection(choices, level, allocation)


def by_falling_score(problem: Problem, target: Target, scores: Sequence[Tensor], allocation: Allocation) -> Selection:
    """Units of every group by falling score, shape [U] each, as many as an allocation keeps."""
    pairs = zip(scores, problem.groups, strict=True)
    orders = [interleaved(descending(score), group.num_partitions) for score, group in pairs]
    return selected(problem, target, allocation, lambda number, _: orders[number])
