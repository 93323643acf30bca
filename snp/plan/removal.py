"""Which whole blocks go, beside the units of those that stay?

At one price per cost a block that stays costs what its groups cost at theirs, and its layers that no group cuts; one
that goes costs the damage of its trial. So one level decides over both. Trials take out one block at a time, and what
several do together is more, or, once the layers behind are fitted, less. So the damages of all blocks are multiplied
by one factor, and whole allocations, fitted on some samples, are judged on others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from snp.core.cuts import Curve
from snp.graph.residual import is_inside
from snp.plan.allocation import BlockCurve, Curves
from snp.plan.budgets import TOLERANCE, met_again
from snp.plan.group_plan import GroupPlan
from snp.plan.level import level_for
from snp.plan.pieces import block_of, tried_without
from snp.plan.problem import Problem, Selection

__all__ = ["block_curves", "tried_blocks", "with_blocks_removed"]

_MOST = 7  # allocations judged
_HALVINGS = 4  # of the way to a neighbouring factor, in search of other blocks
_DOUBT = 0.5  # standard errors of a difference that are chance


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


def with_blocks_removed(problem: Problem, selection: Selection) -> tuple[Problem, Selection]:
    """The problem of the blocks that stay, and the selection of their groups; the same where all stay.

    Args:
        problem: knows costs, a budget and a judge.
        selection: by level, of all groups.
    """
    if not problem.blocks or not isinstance(selection.allocation, Curves):
        return problem, selection
    with problem.progress.stage("try blocks"):
        return _Search(problem, selection, selection.allocation).best()


@dataclass(frozen=True, eq=False)
class _Search:
    """Factors that have been judged.

    Attributes:
        problem, selection: as :func:`with_blocks_removed` gets them.
        allocation: of the selection.
        tried: numbers of the blocks that go -> distances of parts of the samples from the dense network, shape [P].
    """

    problem: Problem
    selection: Selection
    allocation: Curves
    tried: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def best(self) -> tuple[Problem, Selection]:
        """What is chosen: of what judges cannot tell from the best, that with fewest blocks left, which is fastest."""
        factors = [math.inf, 1.0]
        while True:
            best = min(factors, key=lambda factor: self._judged(self._removed(factor)))
            near = self._near(factors, best)
            if not near or len(self.tried) >= _MOST:
                if not math.isfinite(self._judged(self._removed(best))):
                    raise self._refusal()
                return self._at(max(self._best(), key=len))
            factors.append(near[0])

    def _refusal(self) -> ValueError:
        """Why no allocation that was tried meets the budget: units alone do not, or the next block is too large."""
        found, target = self._at_level(1.0), self.problem.target
        share = self._share_of_rest(found)
        if share >= target.share - TOLERANCE:
            found = ()
        try:
            self._at(found)
        except ValueError as error:
            if not found:
                return error
        reached = math.ceil(1e4 * share) / 1e4
        return ValueError(
            f"{target.option}={target.share:g} cannot be met within {TOLERANCE:.0%} by whole blocks and the units "
            f"beside them: without {len(found)} blocks {reached:.4f} of the dense {target.kind} are left, and with one "
            f"of them more than was asked for. Ask for {target.option}={reached:.4f}, or name more in prune.structures."
        )

    def _near(self, factors: Sequence[float], best: float) -> list[float]:
        """Factors between the best one and its neighbours, above and below, that lead to blocks not judged yet."""
        above = min((factor for factor in factors if factor > best), default=math.inf)
        below = max((factor for factor in factors if factor < best), default=best / 4)
        found = list[float]()
        for far in (above, below):
            near = best
            for _ in range(_HALVINGS):
                middle = math.sqrt(near * far) if math.isfinite(near * far) else 2 * min(near, far)
                removed = self._removed(middle)
                if removed not in self.tried:
                    found.append(middle)
                    break
                near, far = (middle, far) if removed == self._removed(best) else (near, middle)
        return found

    def _best(self) -> list[tuple[int, ...]]:
        """Those after which the network is nearest to the dense one, and those that chance may have made worse."""
        best = min(self.tried, key=lambda removed: self._judged(removed))
        found = [best]
        for removed, distances in self.tried.items():
            loss = distances - self.tried[best]
            error = float(loss.std()) / math.sqrt(len(loss)) if len(loss) > 1 else math.inf
            if math.isfinite(self._judged(removed)) and float(loss.mean()) <= _DOUBT * error:
                found.append(removed)
        return found

    def _removed(self, factor: float) -> tuple[int, ...]:
        """What goes at the level that meets the budget with damages of blocks so many times as large.

        Blocks of no damage go at every price, more of them than the budget asks for, be the rest left whole: then those
        that do most damage stay. Less time than asked for is welcome.
        """
        found, target = () if math.isinf(factor) else self._at_level(factor), self.problem.target
        while found and not target.is_timed and self._share_of_rest(found) < target.share - TOLERANCE:
            most = max(found, key=lambda number: self.allocation.blocks[number].damage)
            found = tuple(number for number in found if number != most)
        return found

    def _at_level(self, factor: float) -> tuple[int, ...]:
        blocks = tuple(replace(one, damage=one.damage * factor) for one in self.allocation.blocks)
        return level_for(self.problem, replace(self.allocation, blocks=blocks)).removed

    def _share_of_rest(self, removed: tuple[int, ...]) -> float:
        """Of the dense cost, with all units of the other blocks."""
        costs = self.problem.costs.without([self.problem.blocks[number] for number in removed])
        return costs.share_of(self.problem.target)(costs.dense)

    def _judged(self, removed: tuple[int, ...]) -> float:
        """How far from the dense network an allocation without these blocks is; infinitely where there is none."""
        if removed not in self.tried:
            try:
                allocation = self._at(removed)
            except ValueError:  # the budget cannot be met without them, or with them
                self.tried[removed] = torch.full((1,), math.inf, dtype=torch.float64)
            else:
                self.tried[removed] = self._distances(*allocation)
            self.problem.progress.step()
        return float(self.tried[removed].mean())

    @staticmethod
    def _distances(problem: Problem, selection: Selection) -> Tensor:
        assert problem.judge is not None, "blocks are judged"
        pairs = zip(problem.groups, selection.choices, strict=True)
        groups = [GroupPlan(group, one.kept) for group, one in pairs]
        return problem.judge.distances(groups, problem.removed)

    def _at(self, removed: tuple[int, ...]) -> tuple[Problem, Selection]:
        """The problem without these blocks, and a selection that meets the budget in it."""
        blocks = tuple(self.problem.blocks[number] for number in removed)
        problem = self.problem.without(blocks)
        left = [n for n, group in enumerate(self.problem.groups) if not is_inside(group.name, blocks)]
        curves = tuple(self.allocation.curves[n] for n in left)
        choices = tuple(self.selection.choices[n] for n in left)
        allocation = replace(self.allocation, curves=curves, blocks=())
        return problem, met_again(problem, replace(self.selection, choices=choices, allocation=allocation))
