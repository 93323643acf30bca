"""Which level meets the target, and how many units does it keep in each group?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from snp.core.budget import BudgetError, Target, bisect_level
from snp.core.orderings import descending, interleaved
from snp.graph.units import UnitGroup
from snp.plan.allocation import Allocation
from snp.plan.costs import CostModel
from snp.plan.problem import Choice, Problem, Selection
from snp.plan.twins import evened

__all__ = ["Level", "by_falling_score", "kept_at_level", "level_for", "moved", "refuse_unreachable", "selected"]


def kept_at_level(problem: Problem, allocation: Allocation, level: float) -> list[int]:
    """Kept units per group at a level, rounded."""
    kept = evened(problem.groups, [allocation.num_kept(number, level) for number in range(len(problem.groups))])
    return [
        problem.target.rounding.up(count, group.num_units, group.step)
        for count, group in zip(kept, problem.groups, strict=True)
    ]


@dataclass(frozen=True)
class Level:
    """Where the cut is made.

    Attributes:
        value: what every group keeps, in the unit of the allocation.
        kept: units per group, rounded.
    """

    value: float
    kept: list[int]


def level_for(problem: Problem, allocation: Allocation) -> Level:
    """The level that the target asks for, by bisection where it is a budget.

    Raises:
        ValueError: the budget cannot be reached; the message says what can.
    """
    target = problem.target

    def kept(level: float) -> list[int]:
        return kept_at_level(problem, allocation, level)

    if not target.is_budget:
        return Level(target.share, kept(target.share))
    share = problem.costs.share_of(target)
    try:
        found = bisect_level(lambda level: share(kept(level)), target.share)
    except BudgetError as error:
        raise target.out_of_reach(error.reached) from error
    return Level(found, kept(found))


def refuse_unreachable(costs: CostModel, groups: Sequence[UnitGroup], target: Target) -> None:
    """A budget that no weights and no samples could meet: what sizes alone say, before anything is trained or measured.

    Times are not known by then, and other targets can always be met.

    Raises:
        ValueError: even with every group at its smallest more is left; the message says how much.
    """
    if not target.is_budget or target.is_timed:
        return
    least = [target.rounding.up(1, group.num_units, group.step) for group in groups]
    if (share := costs.share_of(target)(least)) > target.share:
        raise target.out_of_reach(share)


def moved(problem: Problem, selection: Selection) -> Selection:
    """The same orders at the level that meets this problem's target by its costs.

    Raises:
        ValueError: the budget cannot be reached; the message says what can.
    """
    assert selection.allocation is not None, "only a selection by level can be moved"
    level = level_for(problem, selection.allocation)
    return replace(selection.with_kept(level.kept), level=level.value)


def selected(problem: Problem, allocation: Allocation, order: Callable[[int, int], Tensor]) -> Selection:
    """What an allocation keeps at the level that meets the target.

    Args:
        problem: knows costs, and what is asked for.
        allocation: of units to levels.
        order: number of a group and how many of its units stay -> its units in order of keeping, shape [U].

    Raises:
        ValueError: the budget cannot be reached; the message says what can.
    """
    level = level_for(problem, allocation)
    choices = tuple(Choice(order(number, count), count) for number, count in enumerate(level.kept))
    return Selection(choices, level.value, allocation)


def by_falling_score(problem: Problem, scores: Sequence[Tensor], allocation: Allocation) -> Selection:
    """Units of every group by falling score, shape [U] each, as many as an allocation keeps."""
    pairs = zip(scores, problem.groups, strict=True)
    orders = [interleaved(descending(score), group.num_partitions) for score, group in pairs]
    return selected(problem, allocation, lambda number, _: orders[number])
