"""Which whole blocks go, beside the units of those that stay?

At one price per cost a block that stays costs what its groups cost at theirs, and its layers that no group cuts; one
that goes costs the damage of its trial. So one level decides over both. Trials take out one block at a time, and what
several do together is more, or, once the layers behind are fitted, less. So the damages of all blocks are multiplied
by one factor, and whole allocations, fitted on some samples, are judged on others.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from snp.core.cuts import Curve
from snp.graph.residual import is_inside
from snp.plan.allocation import BlockCurve, Curves
from snp.plan.block_search import BlockSearch, Clock
from snp.plan.pieces import block_of, tried_without
from snp.plan.problem import Problem, Selection
from snp.plan.without_blocks import WithoutBlocks

__all__ = ["block_curves", "tried_blocks", "with_blocks_removed"]


def tried_blocks(problem: Problem) -> list[float]:
    """What taking out one block at a time does to the outputs, in nats per sample; none where there are no blocks."""
    if not problem.blocks:
        return []
    pieces = [*map(block_of, problem.blocks)]
    with problem.progress.stage("try blocks", len(pieces)):
        return problem.workers.of("blocks", pieces, partial(tried_without, problem), problem.progress.step)


def block_curves(
    problem: Problem, damages: Sequence[float], curves: Sequence[Curve], units: tuple[float, float]
) -> tuple[BlockCurve, ...]:
    """What blocks do and save, in the units of the curves of groups.

    Args:
        problem: its groups have these curves.
        damages: of each block, in nats per sample.
        curves: one per group.
        units: what damages, and costs, are divided by there.
    """
    costs, found = problem.costs, []
    whole = costs.of_target(problem.target)(costs.dense)
    for block, damage in zip(problem.blocks, damages, strict=True):
        rest = costs.without([block])
        groups = tuple(n for n, group in enumerate(problem.groups) if is_inside(group.name, [block]))
        cut = sum(curves[n].unit_cost * problem.groups[n].num_units for n in groups)
        cost = (whole - rest.of_target(problem.target)(rest.dense)) / units[1]
        found.append(BlockCurve(damage / units[0], cost - cut, groups))
    return tuple(found)


def with_blocks_removed(
    problem: Problem, selection: Selection, clock: Clock | None = None
) -> tuple[Problem, Selection]:
    """The problem of the blocks that stay, and the selection of their groups; the same where all stay.

    Args:
        problem: knows costs, a budget and a judge.
        selection: by level, of all groups.
        clock: holds an allocation to a budget of time, by networks that are timed as a whole.

    Raises:
        ValueError: the budget is met neither with all blocks nor without any that were tried.
    """
    if not problem.blocks or not isinstance(selection.allocation, Curves):
        return problem, selection
    with problem.progress.stage("try blocks"):
        return BlockSearch(WithoutBlocks(problem, selection, selection.allocation), clock).best()
