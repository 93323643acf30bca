"""Is a budget used up?  Where a common level moves in steps too coarse for it, single groups are raised one by one."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import torch
from torch import Tensor

from snp.core.budget import Target
from snp.core.rounding import Rounding
from snp.graph.units import UnitGroup
from snp.plan.level import moved, rounded_up
from snp.plan.problem import Choice, Problem, Selection
from snp.plan.twins import twins_of

__all__ = ["TOLERANCE", "met_again", "use_up"]

# What is reached lies between the share asked for and this much less.
TOLERANCE = 0.01
_NO_DAMAGE = 1e-9  # in nats, or avoided per share of the cost: units that do nothing
_MOST_EXCHANGED = 5  # groups
_MOST_COMBINATIONS = 4096


def use_up(problem: Problem, selection: Selection) -> Selection:
    """A selection that meets the budget to one percent of the dense network.

    A level shared by all groups moves many units at once, in multiples of ``round_to``. Where damages were measured,
    what that leaves is spent in such steps, the one first that avoids most damage per cost. Where more than one percent
    is left unspent, groups are raised step by step in any case; in single units where rounded steps do not fit; and at
    last a group gives way to others, unless that does damage where a smaller network does none. One that is
    faster than asked for is not refused: what is measured of it will differ tomorrow. Targets that are no budgets are
    left as they are.

    Args:
        problem: knows costs, and what is asked for.
        selection: of a planner, within the budget.

    Raises:
        ValueError: single units are too large for a budget that counts; the message says what was reached.
    """
    target = problem.target
    if not target.is_budget:
        return selection
    filler = _Filler(
        problem.groups,
        [_damage(choice) for choice in selection.choices],
        problem.costs.share_of(target),
        target.share,
    )
    kept, is_measured = selection.kept, all(choice.damage is not None for choice in selection.choices)
    if is_measured:
        kept = filler.filled(kept, target.rounding, least=_NO_DAMAGE)
    for rounding in (target.rounding, replace(target.rounding, multiple=1)):
        if not filler.is_met(kept):
            kept = filler.filled(kept, rounding)
    if not filler.is_met(kept):
        exchanged = filler.exchanged(kept)
        if is_measured and filler.damage(kept) <= _NO_DAMAGE < filler.damage(exchanged):
            return selection.with_kept(kept)  # smaller than asked for, and as good as the dense network
        kept = exchanged
    if not filler.is_met(kept) and not target.is_timed:
        raise ValueError(_refusal(target, filler.share(kept)))
    return selection.with_kept(kept)


def met_again(problem: Problem, selection: Selection) -> Selection:
    """The same orders at the level that meets this problem's target by its costs, and what that leaves spent.

    Raises:
        ValueError: the budget cannot be reached; the message says what can.
    """
    return use_up(problem, moved(problem, selection))


def _refusal(target: Target, share: float) -> str:
    reached = math.ceil(1e4 * share) / 1e4
    return (
        f"{target.option}={target.share:g} cannot be met within {TOLERANCE:.0%}: {reached:.4f} of the dense "
        f"{target.kind} is the closest that was found below it by exchanging single units. "
        f"Ask for {target.option}={reached:.4f}, or for a share of the units (prune.target_units)."
    )


def _damage(choice: Choice) -> Tensor:
    """Damage with the first k units kept, k = 0..U: measured, or the variance that is lost, or the share of units."""
    num_units = len(choice.order)
    if choice.damage is not None:
        return choice.damage.double().cpu()
    if choice.kept_variance is None:
        return 1 - torch.arange(num_units + 1, dtype=torch.float64) / num_units
    return 1 - torch.cat([torch.zeros(1, dtype=torch.float64), choice.kept_variance.double().cpu()])


@dataclass(frozen=True, order=True)
class _Step:
    """One group raised by some units; what avoids more damage per cost comes first."""

    avoided_per_cost: float
    share: float
    group: int
    num_kept: int


@dataclass(frozen=True, eq=False)
class _Filler:
    """Moves numbers of kept units towards a budget from below.

    Attributes:
        groups: G of them.
        damages: per group, with the first k units kept, shape [U + 1].
        share: of the dense cost that numbers of kept units have.
        target: the share that must not be passed.
    """

    groups: Sequence[UnitGroup]
    damages: Sequence[Tensor]
    share: Callable[[Sequence[int]], float]
    target: float

    @cached_property
    def _twins(self) -> list[tuple[int, ...]]:
        return twins_of(self.groups)

    def _with(self, kept: Sequence[int], number: int, count: int) -> list[int]:
        """The same numbers with another one for a group and its twins."""
        return [count if other in self._twins[number] else one for other, one in enumerate(kept)]

    def is_met(self, kept: Sequence[int]) -> bool:
        """Within the budget, and not more than the tolerance below."""
        return self.target - TOLERANCE <= self.share(kept) <= self.target

    def damage(self, kept: Sequence[int]) -> float:
        """All groups together."""
        return sum(float(damage[count]) for damage, count in zip(self.damages, kept, strict=True))

    def filled(self, kept: Sequence[int], rounding: Rounding, least: float = -math.inf) -> list[int]:
        """Raise one group by one step as long as some step fits, the best damage per cost first, if above ``least``."""
        current = list(kept)
        while True:
            spent = self.share(current)
            steps = [self._step(current, number, spent, rounding) for number in range(len(current))]
            best = max((step for step in steps if step is not None), default=None)
            if best is None or best.avoided_per_cost <= least:
                return current
            current = self._with(current, best.group, best.num_kept)

    def _step(self, kept: list[int], number: int, spent: float, rounding: Rounding) -> _Step | None:
        """The next step of a group and its twins; None where it does not fit."""
        group, before = self.groups[number], kept[number]
        after = rounded_up(rounding, group, before + 1)
        if before >= group.num_units or number != self._twins[number][0]:
            return None
        share = self.share(self._with(kept, number, after))
        if share > self.target:
            return None
        avoided = sum(float(self.damages[twin][before] - self.damages[twin][after]) for twin in self._twins[number])
        return _Step(avoided / max(share - spent, 1e-12), share, number, after)

    def exchanged(self, kept: Sequence[int]) -> list[int]:
        """The least damage that meets the budget in the neighbourhood of a choice, or else the closest from below.

        The neighbourhood is every combination of as many units more or less, where units are cheapest, as can be tried.
        """
        firsts = dict.fromkeys(twins[0] for twins in self._twins)
        movable = sorted(firsts, key=lambda number: self._unit_share(kept, number))[:_MOST_EXCHANGED]
        radius = self._radius(kept, movable)
        found = [list(kept)]
        for counts in product(*(self._near(number, kept[number], radius) for number in movable)):
            trial = list(kept)
            for number, count in zip(movable, counts, strict=True):
                trial = self._with(trial, number, count)
            if self.share(trial) <= self.target:
                found.append(trial)
        meeting = [one for one in found if self.is_met(one)]
        return min(meeting, key=self.damage) if meeting else max(found, key=self.share)

    def _unit_share(self, kept: Sequence[int], number: int) -> float:
        """What the units of a group cost, one each of its partitions, as a share of the dense cost."""
        step = self.groups[number].step
        return self.share(self._with(kept, number, kept[number] + step)) - self.share(kept)

    def _radius(self, kept: Sequence[int], movable: Sequence[int]) -> int:
        """The most units more or less of which all combinations can be tried."""
        radii = range(1, max(self.groups[number].num_units for number in movable) + 1)
        return bisect_right(
            radii, _MOST_COMBINATIONS, key=lambda r: math.prod(len(self._near(each, kept[each], r)) for each in movable)
        )

    def _near(self, number: int, count: int, radius: int) -> list[int]:
        group = self.groups[number]
        first = max(-radius, 1 - count // group.step)
        steps = range(first, min(radius, (group.num_units - count) // group.step) + 1)
        return [count + more * group.step for more in steps]
