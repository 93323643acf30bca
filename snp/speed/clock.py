"""Does the network that was chosen take the time that the table of layer times says?  If not, the table learns.

Layers timed alone say too little of a whole network, whose layers share caches and whose other operations shrink less.
So the chosen network is cut (weights are not fitted yet, time does not depend on them) and timed in turns with the
dense one. Where that differs from the budget by more than one percent of the dense time, the table learns what was
measured, and the level of the cut is sought again, at most six times. Time does not fall evenly with the units (kernels
like some widths better than others), so each measurement narrows the search between those before. While all are too
slow, less is aimed at, for six further times if need be and in larger steps, and of all networks that were timed the
slowest one within the budget is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from snp.core.budget import Target
from snp.plan.budgets import TOLERANCE, met_again
from snp.plan.latency_table import LatencyTable
from snp.plan.plan import GroupPlan, PruningPlan
from snp.plan.problem import Problem, Selection
from snp.speed.layer_times import measured_share
from snp.speed.passes import Conditions
from snp.surgery.subject import Subject
from snp.surgery.surgery import cut

__all__ = ["MOST_OVERHEAD", "checked_by_clock", "refuse_overhead"]

MOST_OVERHEAD = 0.9  # of the dense pass; what is left for cuts is no more than clocks differ from day to day

_MOST_ROUNDS = 6
_LOWER = 0.05  # of the budget, for each network beyond the first one that was too slow
_FAR_LOWER = 0.2  # and for each beyond those that are timed in any case


def refuse_overhead(table: LatencyTable, target: Target) -> None:
    """A budget of time for a network whose layers hardly take any.

    Args:
        table: measured on it.
        target: a latency; all of the dense time can always be met.

    Raises:
        ValueError: the message says what the layers take, and what to try.
    """
    if target.share >= 1 - TOLERANCE or table.overhead_share <= MOST_OVERHEAD:
        return
    way = "replayed as a CUDA graph" if table.graphs else "called layer by layer"
    raise ValueError(
        f"{target.option}={target.share:g} cannot be met: this network is all overhead. Only "
        f"{1 - table.overhead_share:.0%} of a pass ({table.measured['dense']:.3g} ms for {table.batch} samples, {way}) "
        f"is time of what a cut makes smaller. Give a larger batch (prune.latency_batch, {table.batch} now), or "
        "a budget that does not ask the clock (prune.target_macs)."
    )


@dataclass(frozen=True)
class _Timed:
    """A selection, and the share of the dense network's time that the clock said."""

    selection: Selection
    measured: float


def checked_by_clock(
    subject: Subject,
    problem: Problem,
    selection: Selection,
    share_of: Callable[[nn.Module], float] | None = None,
) -> tuple[Problem, Selection]:
    """The selection whose measured time is next below the budget, and predictions that rest on what was measured.

    Args:
        subject: the dense network.
        problem: whose costs have a table of layer times, and whose target is a latency.
        selection: meets the budget by that table.
        share_of: time of a cut network's pass over the dense one's; by default the clock tells.

    Returns:
        The problem with the corrected table, and the selection.

    Raises:
        ValueError: the budget is out of reach, by the corrected table or for every network that was timed.
    """
    share_of, share = share_of or _clock(subject, problem), problem.target.share
    timed: list[_Timed] = []
    for number in range(2 * _MOST_ROUNDS):
        is_new = _is_new(problem, timed, selection)
        is_enough = (not is_new or number >= _MOST_ROUNDS) and (_within(timed, share) or not timed)
        if selection.allocation is None or is_enough:
            break
        if is_new:
            timed.append(_Timed(selection, share_of(_cut(subject, problem, selection))))
            problem = replace(problem, costs=problem.costs.corrected(selection.kept, timed[-1].measured))
        if abs(timed[-1].measured - share) <= TOLERANCE:
            break
        following = _next(problem, timed, selection, number)
        if following is None:
            break
        selection = following
    return _best(problem, timed) if timed else (problem, selection)


def _next(problem: Problem, timed: Sequence[_Timed], selection: Selection, number: int) -> Selection | None:
    """What is timed after so many rounds; None where only a lower aim is out of reach."""
    target = problem.target
    has_met = bool(_within(timed, target.share))
    aimed = target if number == 0 or has_met else _aimed_lower(target, number)
    try:
        return met_again(replace(problem, target=aimed), selection)
    except ValueError:
        if aimed is target and not has_met:
            raise
        return None


def _is_new(problem: Problem, timed: Sequence[_Timed], selection: Selection) -> bool:
    dense = [] if problem.removed else [list(problem.costs.dense)]
    return selection.kept not in [*dense, *(found.selection.kept for found in timed)]


def _aimed_lower(target: Target, num_missed: int) -> Target:
    far = max(0, num_missed - _MOST_ROUNDS + 1)
    factor: float = (1 - _LOWER) ** (num_missed - far) * (1 - _FAR_LOWER) ** far
    return replace(target, share=target.share * factor)


def _within(timed: Sequence[_Timed], share: float) -> list[_Timed]:
    return [found for found in timed if found.measured <= share + TOLERANCE]


def _best(problem: Problem, timed: Sequence[_Timed]) -> tuple[Problem, Selection]:
    target = problem.target
    met = _within(timed, target.share)
    if not met:
        least = min(found.measured for found in timed)
        remedies = "".join(f", or {remedy}" for remedy in target.remedies)
        raise ValueError(
            f"{target.option}={target.share:g} cannot be met: of {len(timed)} networks that were timed the fastest "
            f"takes {least:.3f} of the dense one's time. Ask for more than that, or for a budget of another kind "
            f"(prune.target_macs){remedies}."
        )
    best = max(met, key=lambda found: found.measured)
    return replace(problem, costs=problem.costs.corrected(best.selection.kept, best.measured)), best.selection


def _clock(subject: Subject, problem: Problem) -> Callable[[nn.Module], float]:
    table = problem.costs.table
    assert table is not None, "layers are timed before networks are"

    def share_of(small: nn.Module) -> float:
        return measured_share(subject.model, small, subject.example, Conditions.of(table))["own_share"]

    return share_of


def _cut(subject: Subject, problem: Problem, selection: Selection) -> nn.Module:
    pairs = zip(problem.groups, selection.choices, strict=True)
    plans = (GroupPlan(group, choice.kept) for group, choice in pairs)
    plan = PruningPlan(tuple(plans), attention=subject.graph.attention, removed_blocks=problem.removed)
    with torch.no_grad():
        return cut(subject.model, plan)
