"""Of what is left without some whole blocks, what is nearest to the dense network?

The damages of all blocks are multiplied by one factor, which decides how many of them go at the level that meets a
budget. Whole allocations, fitted on some samples, are judged on others. What the judge prefers on a budget of time is
held to the clock; it may be worse then than what it was preferred to, which is timed next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from snp.graph.residual import is_inside
from snp.plan.budgets import TOLERANCE
from snp.plan.level import level_for
from snp.plan.problem import Problem, Selection
from snp.plan.without_blocks import Allocation, Numbers, WithoutBlocks

__all__ = ["BlockSearch", "Clock"]

_MOST = 7  # allocations judged
_MORE = 3  # whenever the clock has corrected the table
_MOST_TIMED = 4  # allocations that the clock lets meet the budget, of which the best is taken then
_HALVINGS = 4  # of the way to a neighbouring factor, in search of other blocks
_LOWERED = 8  # times, by a quarter each, where nothing meets the budget

# An allocation that meets a budget of time by the table -> one that meets it by networks that were timed.
Clock = Callable[[Problem, Selection], Allocation]


@dataclass(eq=False)
class BlockSearch:
    """Factors, and what goes by them.

    Attributes:
        tried: what has been judged, by the table as it is now.
        clock: holds an allocation to a budget of time.
        timed: what the clock has been asked about, in this order.
        num_judged: by tables that were corrected since.
    """

    tried: WithoutBlocks
    clock: Clock | None = None
    timed: list[Numbers] = field(default_factory=list)
    num_judged: int = 0

    @property
    def _problem(self) -> Problem:
        return self.tried.problem

    @property
    def _is_enough(self) -> bool:
        return self.num_judged + len(self.tried.distances) >= _MOST + _MORE * len(self.timed)

    def best(self) -> Allocation:
        """What is chosen: of what judges cannot tell from the best, that with fewest blocks left, which is fastest.

        On a budget of time all that is left is as fast as was asked for, and the best itself is taken. It is timed
        first, because a table of layers may say too little: what the clock makes of it is judged in its place, and
        others are judged anew by the table that has learnt from it.

        Raises:
            ValueError: nothing that was tried meets the budget.
        """
        factors = [math.inf, 1.0]
        while True:
            met = [removed for removed in self.timed if self._why(removed) is None]
            if len(met) == _MOST_TIMED:
                return self.tried.at(min(met, key=self.tried.judged))
            self._judge_near(factors)
            chosen = self._chosen()
            if chosen is None:
                if self._is_enough or not self._judge_lower(factors):
                    raise self._refusal()
            elif self.clock is None or chosen in self.timed:
                return self.tried.at(chosen)
            elif self._learns(chosen, self.clock):
                factors = [1.0]

    def _judge_near(self, factors: list[float]) -> None:
        """Judge further factors around the best one, until there are no others, or enough."""
        while True:
            best = min(factors, key=lambda factor: self.tried.judged(self._removed(factor)))
            near = self._near(factors, best)
            if not near or self._is_enough:
                return
            factors.append(near[0])

    def _judge_lower(self, factors: list[float]) -> bool:
        """Judge the least factor that lets other blocks go than any before; is there one?"""
        for _ in range(_LOWERED):
            factors.append(min(factors) / 4)
            if self._removed(factors[-1]) not in self.tried.distances:
                self.tried.judged(self._removed(factors[-1]))
                return True
        return False

    def _chosen(self) -> Numbers | None:
        """Numbers of the blocks that go; None where nothing that was tried meets the budget."""
        alike = self.tried.nearest()
        if not alike:
            return None
        return alike[0] if self._problem.target.is_timed else max(alike, key=len)

    def _learns(self, removed: Numbers, clock: Clock) -> bool:
        """Hold an allocation to the clock; has it become another one, by which the table is corrected?"""
        self.timed.append(removed)
        before = self.tried.at(removed)[1].kept
        held: Allocation | ValueError
        try:
            held = clock(*self.tried.at(removed))
        except ValueError as error:
            held = error
        self.tried.become(removed, held)
        if isinstance(held, ValueError) or held[1].kept == before:
            return False
        self.num_judged += len(self.tried.distances) - len(self.timed)
        self.tried = self.tried.corrected(self.timed)
        return True

    def _refusal(self) -> ValueError:
        """Why no allocation that was tried meets the budget: units alone do not, or the next block is too large."""
        if self.timed and (error := self._why(self.timed[-1])):
            return error
        found, target = self._at_level(1.0), self._problem.target
        share = self._share_of_rest(found)
        if share >= target.share - TOLERANCE:
            found = ()
        if not found and (error := self._why(found)):
            return error
        reached = math.ceil(1e4 * share) / 1e4
        return ValueError(
            f"{target.option}={target.share:g} cannot be met within {TOLERANCE:.0%} by whole blocks and the units "
            f"beside them: without {len(found)} blocks {reached:.4f} of the dense {target.kind} are left, and with one "
            f"of them more than was asked for. Ask for {target.option}={reached:.4f}, or name more in prune.structures."
        )

    def _why(self, removed: Numbers) -> ValueError | None:
        """Why nothing without these blocks meets the budget; None where something does."""
        try:
            self.tried.at(removed)
        except ValueError as error:
            return error
        return None

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
                if removed not in self.tried.distances:
                    found.append(middle)
                    break
                near, far = (middle, far) if removed == self._removed(best) else (near, middle)
        return found

    def _removed(self, factor: float) -> Numbers:
        """What goes at the level that meets the budget with damages of blocks so many times as large.

        Blocks of no damage go at every price, more of them than the budget asks for, be the rest left whole: then those
        that do most damage stay. Less time than asked for is welcome, but some unit has to be left to cut.
        """
        found = () if math.isinf(factor) else self._at_level(factor)
        while found and self._is_too_much(found):
            most = max(found, key=lambda number: self.tried.curves.blocks[number].damage)
            found = tuple(number for number in found if number != most)
        return found

    def _is_too_much(self, removed: Numbers) -> bool:
        blocks, target = [self._problem.blocks[number] for number in removed], self._problem.target
        if all(is_inside(group.name, blocks) for group in self._problem.groups):
            return True
        return not target.is_timed and self._share_of_rest(removed) < target.share - TOLERANCE

    def _at_level(self, factor: float) -> Numbers:
        blocks = tuple(replace(one, damage=one.damage * factor) for one in self.tried.curves.blocks)
        return level_for(self._problem, replace(self.tried.curves, blocks=blocks)).removed

    def _share_of_rest(self, removed: Numbers) -> float:
        """Of the dense cost, with all units of the other blocks."""
        costs = self._problem.costs.without([self._problem.blocks[number] for number in removed])
        return costs.share_of(self._problem.target)(costs.dense)
