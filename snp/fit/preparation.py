"""How do attention heads lie before units are chosen, and before the plan is carried out?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from snp.core.gram import Moments
from snp.fit.calibration import Measured
from snp.fit.head_bases import in_head_bases
from snp.fit.judge import FEWEST_SAMPLES, FitJudge
from snp.fit.trials import Trials
from snp.fit.tuning import refuse_few_to_tune
from snp.graph.residual import ResidualBlock
from snp.plan.costs import CostModel
from snp.plan.latency_table import LatencyTable
from snp.plan.plan import PruningPlan
from snp.plan.problem import LogitStatistics, Problem
from snp.plan.progress import Progress
from snp.plan.workers import ONE_WORKER, Workers
from snp.settings import PruneSettings
from snp.surgery.subject import Subject

__all__ = ["is_known_everywhere", "prepare", "problem_of", "refuse_few_samples", "settle"]


def prepare(
    measured: Measured,
    settings: PruneSettings,
    table: LatencyTable | None = None,
    progress: Progress | None = None,
    workers: Workers = ONE_WORKER,
) -> tuple[Subject, Problem]:
    """The network with its attention heads in the bases that suit a cut, and what planners look at.

    Where no heads are cut, moments may lie on disk and stay there.

    Args:
        measured: of the dense network; without samples no trial cuts are made.
        settings: of the prune.
        table: layer times, for a latency budget.
        progress: is told of the stages from here on.
        workers: do what may be done elsewhere, too, where :func:`is_known_everywhere`.
    """
    progress = progress or Progress()
    workers = workers if is_known_everywhere(measured.subject) else ONE_WORKER
    subject, fisher, inputs = measured.subject, measured.sensitivity, measured.samples.batches
    if not subject.graph.attention and not (settings.needs_trials and inputs):
        problem = problem_of(subject, measured.moments, fisher, measured.streams, table)
        return subject, replace(problem, objective=measured.objective, progress=progress, workers=workers)
    turned = in_head_bases(subject, *measured.in_memory(), rotate=bool(settings.reconstruct))
    problem = problem_of(turned.subject, turned.moments, fisher, {**turned.logits, **measured.streams}, table)
    if settings.needs_trials and inputs:
        # The fit in sequence needs the same program; for trials alone it would not pay everywhere.
        problem = replace(problem, blocks=_weighed(turned.subject, settings, measured))
        is_sequential = settings.is_sequential
        trials = Trials(turned.subject, problem, inputs, measured.objective, replays=is_sequential, fit=settings.fit)
        problem = replace(problem, trial=trials, judge=_judge(turned.subject, problem, settings, measured))
    return turned.subject, replace(problem, objective=measured.objective, progress=progress, workers=workers)


def is_known_everywhere(subject: Subject) -> bool:
    """Is the network that is cut the one that all processes have?  Bases of heads and streams are found by one."""
    return (
        not subject.graph.attention
        and {group.kind for group in subject.groups} <= {"conv", "ffn"}
        and not subject.blocks
    )


def _judge(subject: Subject, problem: Problem, settings: PruneSettings, measured: Measured) -> FitJudge | None:
    """What whole allocations are judged by, where they are asked for and there are samples enough."""
    is_asked = (settings.tilt or bool(problem.blocks)) and settings.is_sequential and settings.target.is_budget
    if not is_asked or _num_samples(measured) < FEWEST_SAMPLES:
        return None
    generator = torch.Generator().manual_seed(settings.seed)
    return FitJudge(subject, problem, settings.fit, measured.samples.as_given, measured.asked(), generator)


def _weighed(subject: Subject, settings: PruneSettings, measured: Measured) -> tuple[ResidualBlock, ...]:
    """The blocks that are weighed against units: those that can go, where there are samples to judge by.

    Raises:
        ValueError: they are asked for by name, and there are too few samples.
    """
    num_samples = _num_samples(measured)
    if not subject.removable or num_samples >= FEWEST_SAMPLES:
        return subject.removable
    _refuse_few_to_weigh(settings, num_samples)
    return ()


def refuse_few_samples(settings: PruneSettings, num_samples: int) -> None:
    """There are samples enough for what judges by some of them.

    Args:
        settings: of the prune.
        num_samples: to calibrate on, repeats left out.

    Raises:
        ValueError: there are too few.
    """
    if settings.takes_steps:
        refuse_few_to_tune(num_samples)
    _refuse_few_to_weigh(settings, num_samples)


def _refuse_few_to_weigh(settings: PruneSettings, num_samples: int) -> None:
    if "blocks" in settings.structures and num_samples < FEWEST_SAMPLES:  # by name; auto does without
        raise ValueError(
            f"prune.structures with blocks judges whole allocations by {FEWEST_SAMPLES} calibration samples or more; "
            f"found {num_samples}: give more, or leave blocks out"
        )


def _num_samples(measured: Measured) -> int:
    """That allocations can be judged by: mirrored images are not among them."""
    return sum(batch.size for batch in measured.samples.as_given)


def problem_of(
    subject: Subject,
    moments: Mapping[str, Moments],
    sensitivity: Mapping[str, Tensor] | None = None,
    logits: Mapping[str, LogitStatistics] | None = None,
    table: LatencyTable | None = None,
) -> Problem:
    """What planners look at, in main memory.

    Raises:
        ValueError: a reader saw no activations.
    """
    names = {member.tensor for group in subject.groups for member in group.producers + group.consumers}
    weights = {name: subject.model.get_parameter(name).detach().cpu() for name in sorted(names)}
    for name, reader in subject.readers.items():
        is_read = name in moments and moments[name].count > 0
        if not is_read and reader.is_routed and isinstance(moments, dict):
            # An expert that got no token: its units are alike and know nothing of each other: nothing is folded.
            eye = torch.eye(reader.num_columns, dtype=torch.float64)
            moments = moments | {name: Moments(eye, torch.zeros_like(eye[0]), 1)}
        elif not is_read:
            raise ValueError(f"no activations were measured at {reader.module}: was the calibration loader empty?")
    costs = CostModel(subject.model, subject.graph, subject.groups, table)
    # Other mappings fetch their moments one by one, when they are asked for.
    in_memory = {name: entry.cpu() for name, entry in moments.items()} if isinstance(moments, dict) else moments
    fisher = {name: matrix.cpu() for name, matrix in (sensitivity or {}).items()}
    return Problem(
        subject.groups, weights, subject.readers, in_memory, costs, fisher, logits or {}, device=subject.device
    )


def settle(measured: Measured, plan: PruningPlan, prepared: tuple[Subject, Problem]) -> tuple[Subject, Problem]:
    """What :func:`prepare` gave, with the heads that the plan leaves whole as they were, to the bit.

    Args:
        measured: as :func:`prepare` was given.
        plan: what was decided on.
        prepared: what :func:`prepare` gave.
    """
    of_heads = [decision for decision in plan.groups if decision.group.kind in ("qk", "vo", "dims")]
    lose = {decision.group.name for decision in of_heads if len(decision.cut)}
    is_turned = prepared[0].model is not measured.subject.model
    if not is_turned or len(lose) == len(of_heads):
        return prepared
    turned = in_head_bases(measured.subject, *measured.in_memory(), rotate=lose)
    before = prepared[1]
    logits = {**turned.logits, **measured.streams}
    problem = problem_of(turned.subject, turned.moments, measured.sensitivity, logits, before.costs.table)
    return turned.subject, replace(problem, objective=before.objective, progress=before.progress)
