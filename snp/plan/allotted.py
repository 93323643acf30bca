"""Which units and whole blocks are left within what is asked for?"""

from __future__ import annotations

from dataclasses import dataclass

from snp.plan.allocation import Curves
from snp.plan.block_search import Clock
from snp.plan.budgets import use_up
from snp.plan.problem import Problem, Selection
from snp.plan.removal import with_blocks_removed
from snp.plan.tilt import best_tilt

__all__ = ["Allotted", "allotted"]


@dataclass(frozen=True, eq=False)
class Allotted:
    """What is left.

    Attributes:
        problem: of the blocks that stay; with a clock its predictions rest on networks that were timed.
        selection: of their units.
        tilt: of the allocation along the depth (:mod:`snp.plan.tilt`); 0 for none.
    """

    problem: Problem
    selection: Selection
    tilt: float = 0.0


def allotted(problem: Problem, selection: Selection, *, tilts: bool, clock: Clock | None = None) -> Allotted:
    """Weigh blocks against units where there are any, spend the budget, and tilt what is left where that helps.

    Args:
        problem: knows costs, and what is asked for.
        selection: of a planner, within it.
        tilts: judge tilted allocations, where the problem has a judge.
        clock: holds an allocation to a budget of time.

    Raises:
        ValueError: nothing that was tried meets the budget.
    """
    # Where blocks are weighed, the clock has seen what is chosen.
    is_timed = clock is not None and bool(problem.blocks) and isinstance(selection.allocation, Curves)
    problem, selection = with_blocks_removed(problem, selection, clock)
    plain = Allotted(problem, selection if is_timed else use_up(problem, selection))
    tilted = plain
    if tilts and problem.judge is not None:
        with problem.progress.stage("try allocations"):
            tilt, selection = best_tilt(problem, plain.selection)
        tilted = Allotted(problem, selection, tilt)
    if clock is None or (is_timed and tilted.selection.kept == plain.selection.kept):
        return tilted
    try:
        return Allotted(*clock(problem, tilted.selection), tilted.tilt)
    except ValueError:
        if not is_timed:
            raise
        return plain
