"""How is a budget spread along the depth, where layers behind a cut make up for it?

Damages are those of single cuts. What an early layer loses the layers behind it, fitted on what the pruned network
computes, bring back in part; what the last ones lose stays lost. So damages are tilted, by one factor along the
execution order, and the tilt is the one whose whole allocation, fitted on some samples, serves others best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from snp.plan.allocation import Curves
from snp.plan.budgets import met_again
from snp.plan.pieces import allocation_of, judged
from snp.plan.problem import Problem, Selection
from snp.plan.workers import Piece

__all__ = ["at_tilt", "best_tilt"]

_STEP = 0.5  # of tilts: the last group's damage counts exp(2 * 0.5) times as much beside the first one's
_MOST = 5  # allocations judged
_SAME = 0.1  # tilts nearer than this are one
_LITTLE = 0.01  # nats per sample that need no better allocation
_DOUBT = 0.5  # standard errors of a difference that are chance


def at_tilt(problem: Problem, selection: Selection, tilt: float) -> Selection:
    """The same orders within the same budget, with damages times exp(tilt * t), t from -1 for the first group to 1.

    Args:
        problem: knows costs and the budget; its groups are in execution order.
        selection: by level, with damages.
        tilt: 0 changes nothing.

    Raises:
        ValueError: single units are too large for that.
    """
    allocation = selection.allocation
    assert isinstance(allocation, Curves), "tilts change damages"
    factors = torch.linspace(-tilt, tilt, len(selection.choices), dtype=torch.float64).exp().tolist()
    curves = [
        replace(curve, damage=_times(curve.damage, f)) for curve, f in zip(allocation.curves, factors, strict=True)
    ]
    choices = [replace(one, damage=_times(one.damage, f)) for one, f in zip(selection.choices, factors, strict=True)]
    changed = replace(selection, choices=tuple(choices), allocation=replace(allocation, curves=tuple(curves)))
    return met_again(problem, changed)


def _times(damage: Tensor | None, factor: float) -> Tensor | None:
    return None if damage is None else damage * factor


def best_tilt(problem: Problem, selection: Selection) -> tuple[float, Selection]:
    """The tilt, and the allocation it leads to, after which the fitted network is nearest to the dense one.

    Tilts are tried in steps in the direction that helps until one helps no more, then where a parabola through the
    best three has its lowest point. One that is not better by half a standard error of the difference is none.
    Where the network hardly moves without a tilt, or has one group, none is tried.

    Args:
        problem: knows costs, a budget and a judge.
        selection: within it, without a tilt.
    """
    search = _Search(problem, selection, {}, {})
    if len(selection.choices) < 2:
        return 0.0, selection
    search.look_ahead((0.0, _STEP, -_STEP, 2 * _STEP, -2 * _STEP))
    if search.judge(0.0) < _LITTLE:
        return 0.0, selection
    direction = _STEP if search.judge(_STEP) < search.mean(0.0) else -_STEP
    place = direction if direction < 0 else 2 * _STEP
    search.look_ahead((place, place + direction))
    while len(search.tried) < _MOST - 1 and search.judge(place) < search.mean(place - direction):
        place += direction
    if len(search.tried) < _MOST:
        search.judge(search.lowest())
    return search.best()


@dataclass(frozen=True, eq=False)
class _Search:
    """Tilts that have been judged.

    Attributes:
        problem, selection: as :func:`best_tilt` gets them.
        tried: tilt -> distances of parts of the samples, shape [P].
        ahead: the same of tilts that may be asked for.
    """

    problem: Problem
    selection: Selection
    tried: dict[float, Tensor]
    ahead: dict[float, Tensor]

    def look_ahead(self, tilts: Sequence[float]) -> None:
        """Judge some tilts at the same time, as many as there are processes; it takes as long as the first alone."""
        workers = self.problem.workers
        new = ((tilt, self._piece(tilt)) for tilt in tilts if tilt not in self.ahead)
        few = dict(islice((each for each in new if each[1]), workers.num_processes))
        found = workers.of("allocations", [*few.values()], partial(judged, self.problem))
        self.ahead.update(
            {tilt: torch.tensor(each, dtype=torch.float64) for tilt, each in zip(few, found, strict=True)}
        )

    def mean(self, tilt: float) -> float:
        """Distance from the dense network, in nats per sample."""
        return float(self.tried[tilt].mean())

    def judge(self, tilt: float) -> float:
        """The same of a tilt that may be new."""
        if tilt not in self.tried:
            self.tried[tilt] = self._distances(tilt)
            self.problem.progress.step()
        return self.mean(tilt)

    def _distances(self, tilt: float) -> Tensor:
        if tilt not in self.ahead:
            self.look_ahead((tilt,))
        return self.ahead[tilt] if tilt in self.ahead else torch.full_like(self.tried[0.0], math.inf)

    def _piece(self, tilt: float) -> Piece:
        """What would be cut; nothing where single units are too large for the budget at this tilt."""
        try:
            return allocation_of(self.problem, self.at(tilt).choices)
        except ValueError:
            return {}

    def at(self, tilt: float) -> Selection:
        """What a tilt keeps; its damages are those that were measured."""
        if tilt == 0:
            return self.selection
        found = at_tilt(self.problem, self.selection, tilt)
        return replace(found, choices=self.selection.with_kept(found.kept).choices)

    def lowest(self) -> float:
        """Where a parabola through the best tilt and its nearest two is lowest; the best one where it has no bottom."""
        best = min(self.tried, key=self.mean)
        left, right = (
            max((tilt for tilt in self.tried if tilt < best), default=None),
            min((tilt for tilt in self.tried if tilt > best), default=None),
        )
        if left is None or right is None:
            return best
        down, up = self.mean(left) - self.mean(best), self.mean(right) - self.mean(best)
        before, behind = best - left, right - best
        if not math.isfinite(down + up):
            return best
        bottom = (down * behind**2 - up * before**2) / (2 * (down * behind + up * before) or math.inf)
        return best + bottom if abs(bottom) > _SAME else best

    def best(self) -> tuple[float, Selection]:
        """What is chosen."""
        tilt = min(self.tried, key=self.mean)
        gain = self.tried[0.0] - self.tried[tilt]
        error = float(gain.std()) / math.sqrt(len(gain)) if len(gain) > 1 else math.inf
        tilt = tilt if float(gain.mean()) > _DOUBT * error else 0.0
        return tilt, self.at(tilt)
