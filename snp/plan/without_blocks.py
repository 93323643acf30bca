"""How far from the dense network is what is left without some whole blocks, within a budget?

Whole allocations are fitted on some samples and judged on others. Each set of blocks is judged once, and again where
the clock has made another allocation of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from snp.graph.residual import is_inside
from snp.plan.allocation import Curves
from snp.plan.budgets import met_again
from snp.plan.group_plan import GroupPlan
from snp.plan.problem import Problem, Selection

__all__ = ["Allocation", "Numbers", "WithoutBlocks"]

_DOUBT = 0.5  # standard errors of a difference that are chance
_NOWHERE = torch.full((1,), math.inf, dtype=torch.float64)

Numbers = tuple[int, ...]
Allocation = tuple[Problem, Selection]


@dataclass(frozen=True, eq=False)
class WithoutBlocks:
    """Allocations without some blocks, named by their numbers.

    Attributes:
        problem: knows costs, a budget and a judge.
        selection: by level, of all groups.
        curves: of the selection.
        distances: of parts of the samples from the dense network, shape [P].
        found: an allocation that meets the budget, or why none does.
    """

    problem: Problem
    selection: Selection
    curves: Curves
    distances: dict[Numbers, Tensor] = field(default_factory=dict)
    found: dict[Numbers, Allocation | ValueError] = field(default_factory=dict)

    def at(self, removed: Numbers) -> Allocation:
        """The problem without these blocks, and a selection that meets the budget in it.

        Raises:
            ValueError: there is none.
        """
        if removed not in self.found:
            try:
                self.found[removed] = self._made(removed)
            except ValueError as error:
                self.found[removed] = error
        known = self.found[removed]
        if isinstance(known, ValueError):
            raise known
        return known

    def _made(self, removed: Numbers) -> Allocation:
        blocks = tuple(self.problem.blocks[number] for number in removed)
        problem = self.problem.without(blocks)
        left = [n for n, group in enumerate(self.problem.groups) if not is_inside(group.name, blocks)]
        curves = replace(self.curves, curves=tuple(self.curves.curves[n] for n in left), blocks=())
        choices = tuple(self.selection.choices[n] for n in left)
        return problem, met_again(problem, replace(self.selection, choices=choices, allocation=curves))

    def judged(self, removed: Numbers) -> float:
        """Mean distance; infinite where the budget cannot be met without them, or with them."""
        if removed not in self.distances:
            try:
                self.distances[removed] = _distances(*self.at(removed))
            except ValueError:
                self.distances[removed] = _NOWHERE
            self.problem.progress.step()
        return float(self.distances[removed].mean())

    def corrected(self, timed: Sequence[Numbers]) -> WithoutBlocks:
        """What was timed, and all else anew, by predictions that rest on what the clock said.

        Args:
            timed: without which networks were timed; the last one meets the budget.
        """
        last, _ = self.at(timed[-1])
        problem = replace(self.problem, costs=self.problem.costs.corrected_as(last.costs))
        distances = {removed: self.distances[removed] for removed in timed}
        return replace(self, problem=problem, distances=distances, found={one: self.found[one] for one in timed})

    def become(self, removed: Numbers, allocation: Allocation | ValueError) -> None:
        """Another allocation without these blocks, or none, stands in the place of the one that was judged."""
        self.found[removed], before = allocation, self.at(removed)
        if isinstance(allocation, ValueError):
            self.distances[removed] = _NOWHERE
        elif allocation[1].kept != before[1].kept:
            del self.distances[removed]
            self.judged(removed)

    def nearest(self) -> list[Numbers]:
        """Those after which the network is nearest to the dense one, the best first; none where no budget is met.

        With the best come those that chance may have made worse.
        """
        best = min(self.distances, key=self.judged)
        if not math.isfinite(self.judged(best)):
            return []
        found = [best]
        for removed, distances in self.distances.items():
            loss = distances - self.distances[best]
            error = float(loss.std()) / math.sqrt(len(loss)) if len(loss) > 1 else math.inf
            is_met = removed != best and math.isfinite(self.judged(removed))
            if is_met and float(loss.mean()) <= _DOUBT * error:
                found.append(removed)
        return found


def _distances(problem: Problem, selection: Selection) -> Tensor:
    assert problem.judge is not None, "blocks are judged"
    pairs = zip(problem.groups, selection.choices, strict=True)
    groups = [GroupPlan(group, one.kept) for group, one in pairs]
    return problem.judge.distances(groups, problem.removed)
