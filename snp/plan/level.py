"""Which level meets the target, and how many units does it keep in each group?"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from snp.core.budget import BudgetError, Target, bisect_level
from snp.core.orderings import descending, interleaved
from snp.core.rounding import Rounding
from snp.graph.residual import ResidualBlock, is_inside
from snp.graph.units import UnitGroup
from snp.plan.allocation import Allocation, Curves
from snp.plan.costs import CostModel
from snp.plan.problem import Choice, Problem, Selection
from snp.plan.twins import evened

__all__ = [
    "Level",
    "by_falling_score",
    "kept_at_level",
    "level_for",
    "moved",
    "refuse_unreachable",
    "rounded_up",
    "selected",
]


def rounded_up(rounding: Rounding, group: UnitGroup, count: int) -> int:
    """Kept units of a group in the steps that are asked for, those counted that stay whatever is cut."""
    fixed = group.num_fixed
    return rounding.up(count + fixed, group.num_units + fixed, group.step) - fixed


def kept_at_level(problem: Problem, allocation: Allocation, level: float) -> list[int]:
    """Kept units per group at a level, rounded."""
    kept = evened(problem.groups, [allocation.num_kept(number, level) for number in range(len(problem.groups))])
    return [
        rounded_up(problem.target.rounding, group, count) for count, group in zip(kept, problem.groups, strict=True)
    ]


@dataclass(frozen=True)
class Level:
    """Where the cut is made.

    Attributes:
        value: what every group keeps, in the unit of the allocation.
        kept: units per group, rounded; also of groups in blocks that go.
        removed: numbers of the blocks that go as a whole.
    """

    value: float
    kept: list[int]
    removed: tuple[int, ...] = ()


def level_for(problem: Problem, allocation: Allocation) -> Level:
    """The level that the target asks for, by bisection where it is a budget.

    Raises:
        ValueError: the budget cannot be reached; the message says what can. Or a cut of another package falls.
    """
    target = problem.target
    if isinstance(allocation, Curves):
        allocation.refuse_falling()

    def kept(level: float) -> list[int]:
        return kept_at_level(problem, allocation, level)

    if not target.is_budget:
        return Level(target.share, kept(target.share))
    share = _share_of(problem, allocation)
    try:
        found = bisect_level(lambda level: share(level, kept(level)), target.share)
    except BudgetError as error:
        raise target.out_of_reach(error.reached) from error
    return Level(found, kept(found), _removed(allocation, found))


def _removed(allocation: Allocation, level: float) -> tuple[int, ...]:
    """Numbers of the blocks that go at a level."""
    return allocation.removed(level) if isinstance(allocation, Curves) else ()


def _share_of(problem: Problem, allocation: Allocation) -> Callable[[float, Sequence[int]], float]:
    """What a level, at which so many units per group are kept, leaves of the dense network's cost."""

    @functools.cache
    def of_rest(removed: tuple[int, ...]) -> tuple[Callable[[Sequence[int]], float], list[int]]:
        blocks = [problem.blocks[number] for number in removed]
        costs = problem.costs.without(blocks) if blocks else problem.costs
        left = [number for number, group in enumerate(problem.groups) if not is_inside(group.name, blocks)]
        return costs.share_of(problem.target), left

    def share(level: float, kept: Sequence[int]) -> float:
        found, left = of_rest(_removed(allocation, level))
        return found([kept[number] for number in left])

    return share


def refuse_unreachable(
    costs: CostModel, groups: Sequence[UnitGroup], target: Target, blocks: Sequence[ResidualBlock] = ()
) -> None:
    """A budget that no weights and no samples could meet: what sizes alone say, before anything is trained or measured.

    Times are not known by then, and other targets can always be met.

    Args:
        costs: of these groups.
        groups: that can be cut.
        target: what is asked for.
        blocks: that can go as a whole.

    Raises:
        ValueError: even with every group at its smallest more is left; the message says how much.
    """
    if not target.is_budget or target.is_timed:
        return
    costs = costs.without(blocks) if blocks else costs
    left = [group for group in groups if not is_inside(group.name, blocks)]
    least = [rounded_up(target.rounding, group, 1) for group in left]
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
