"""Does the network that was chosen take the time that the table of layer times says?  If not, the table learns.

Layers timed alone say too little of a whole network, whose layers share caches and whose other operations shrink less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from snp.plan.budgets import TOLERANCE, use_up
from snp.plan.level import moved
from snp.plan.plan import GroupPlan, PruningPlan
from snp.plan.problem import Problem, Selection
from snp.settings import PruneSettings
from snp.speed.layer_times import measured_share
from snp.surgery.subject import Subject
from snp.surgery.surgery import cut

__all__ = ["checked_by_clock"]

_MOST_ROUNDS = 3


def checked_by_clock(
    subject: Subject,
    problem: Problem,
    settings: PruneSettings,
    selection: Selection,
    share_of: Callable[[nn.Module], float] | None = None,
) -> tuple[Problem, Selection]:
    """A selection whose predicted time rests on a measurement of nearly the same network.

    The chosen network is cut (weights are not fitted yet, time does not depend on them) and timed in turns with the
    dense one. Where that differs from the budget by more than one percent of the dense time, the table is corrected to
    say what was measured, and the level of the cut is sought again. At most three times.

    Args:
        subject: the dense network.
        problem: whose costs have a table of layer times.
        settings: with ``target_latency``.
        selection: meets the budget by that table.
        share_of: time of a cut network's pass over the dense one's; by default the clock tells.

    Returns:
        The problem with the corrected table, and the selection that meets the budget by it.

    Raises:
        ValueError: by the corrected table the budget is out of reach.
    """
    share_of = share_of or _clock(subject, settings)
    for _ in range(_MOST_ROUNDS):
        kept = [choice.num_kept for choice in selection.choices]
        costs = problem.costs
        assert costs.table is not None
        predicted = costs.latency(kept) / costs.latency(costs.dense)
        if predicted >= 1 or selection.allocation is None:
            break
        if abs((measured := share_of(_cut(subject, selection))) - settings.target.share) <= TOLERANCE:
            break
        problem = replace(problem, costs=costs.with_table(costs.table.corrected(predicted, measured)))
        selection = use_up(problem, settings, moved(problem, settings, selection))
    return problem, selection


def _clock(subject: Subject, settings: PruneSettings) -> Callable[[nn.Module], float]:
    def share_of(small: nn.Module) -> float:
        batch, threads = settings.latency_batch, settings.latency_threads
        return measured_share(subject.model, small, subject.example, batch, threads)["own_share"]

    return share_of


def _cut(subject: Subject, selection: Selection) -> nn.Module:
    plans = (
        GroupPlan(group, choice.order[: choice.num_kept].cpu().sort().values)
        for group, choice in zip(subject.groups, selection.choices, strict=True)
    )
    with torch.no_grad():
        return cut(subject.model, PruningPlan(tuple(plans), attention=subject.graph.attention))
