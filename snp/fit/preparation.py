"""What is measured, and how do attention heads lie before units are chosen and before the plan is carried out?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from snp.core.gram import Moments
from snp.core.sums import ALONE, Sums
from snp.fit.head_bases import in_head_bases
from snp.fit.trials import Trials
from snp.graph.batches import Batch
from snp.measure.moments import MomentCollector
from snp.measure.outputs import objective_of
from snp.measure.sensitivity import measure_sensitivity
from snp.measure.views import is_mirrored
from snp.plan.costs import CostModel
from snp.plan.latency_table import LatencyTable
from snp.plan.plan import PruningPlan
from snp.plan.problem import LogitStatistics, Problem
from snp.plan.progress import Progress
from snp.settings import PruneSettings
from snp.surgery.subject import Subject

__all__ = ["FEW", "Measured", "measure", "mirrors", "prepare", "problem_of", "sensitivity_of", "settle"]


@dataclass(frozen=True, eq=False)
class Measured:
    """What samples said of a network.

    Attributes:
        subject: the dense network.
        moments: of its readers' inputs, by weight name.
        sensitivity: from :func:`sensitivity_of`; may be empty.
    """

    subject: Subject
    moments: Mapping[str, Moments]
    sensitivity: Mapping[str, Tensor]

    def in_memory(self) -> tuple[dict[str, Moments], dict[str, Tensor]]:
        """Moments and sensitivity in main memory."""
        return (
            {name: entry.cpu() for name, entry in self.moments.items()},
            {name: matrix.cpu() for name, matrix in self.sensitivity.items()},
        )


def measure(
    subject: Subject, batches: Iterable[Batch], keeps_inputs: bool, progress: Progress
) -> tuple[dict[str, Moments], int, list[Batch]]:
    """Moments, number of samples, and the inputs themselves where they are needed again."""
    samples, inputs = 0, list[Batch]()
    with torch.no_grad(), MomentCollector(subject.model, subject.readers) as collector:
        for batch in batches:
            on_device = batch.beside(subject.model)
            collector.measure(on_device)
            progress.step()
            samples += batch.size
            if keeps_inputs:
                inputs.append(on_device)
    return collector.moments, samples, inputs


def sensitivity_of(
    subject: Subject,
    inputs: Sequence[Batch],
    settings: PruneSettings,
    sums: Sums = ALONE,
) -> dict[str, Tensor]:
    """How much the output moves with errors at each reader, from the first half of the calibration inputs."""
    few = inputs[: max(1, (len(inputs) + 1) // 2)]
    generator = torch.Generator().manual_seed(settings.seed)
    objective = objective_of(subject.model, inputs, settings.objective)
    return measure_sensitivity(subject.model, few, subject.readers, generator, sums, objective)


FEW = 64  # samples that tell whether mirrored images are calibrated on, too


def mirrors(subject: Subject, inputs: Sequence[Batch], settings: PruneSettings) -> bool:
    """Is the network calibrated on mirrored images, too?

    Args:
        subject: the dense network.
        inputs: the first calibration inputs, on its device.
        settings: ``mirrored``; auto is for what looks at samples one by one.

    Raises:
        ValueError: mirrored images are asked for and inputs are no images.
    """
    wanted = settings.mirrored
    if wanted is False or (wanted == "auto" and not settings.needs_inputs):
        return False
    return is_mirrored(subject.model, inputs, objective_of(subject.model, inputs, settings.objective), wanted)


def prepare(
    measured: Measured,
    settings: PruneSettings,
    inputs: Sequence[Batch] = (),
    table: LatencyTable | None = None,
) -> tuple[Subject, Problem]:
    """The network with its attention heads in the bases that suit a cut, and what planners look at.

    Where no heads are cut, moments may lie on disk and stay there.

    Args:
        measured: of the dense network.
        settings: of the prune.
        inputs: calibration inputs on the model's device, for trial cuts; none are made without.
        table: layer times, for a latency budget.
    """
    objective, subject = None, measured.subject
    if settings.needs_sensitivity and inputs:
        objective = objective_of(subject.model, inputs, settings.objective)
    said = "" if objective is None else str(objective)
    if not subject.graph.attention and not (settings.needs_trials and inputs):
        return subject, replace(
            problem_of(subject, measured.moments, measured.sensitivity, table=table), objective=said
        )
    turned = in_head_bases(subject, *measured.in_memory(), rotate=bool(settings.reconstruct))
    problem = problem_of(turned.subject, turned.moments, measured.sensitivity, turned.logits, table)
    if settings.needs_trials and inputs:
        # The fit in sequence needs the same program; for trials alone it would not pay everywhere.
        trials = Trials(turned.subject, problem, inputs, objective, replays=settings.is_sequential)
        problem = replace(problem, trial=trials)
    return turned.subject, replace(problem, objective=said)


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
    device = next(subject.model.parameters()).device
    return Problem(subject.groups, weights, subject.readers, in_memory, costs, fisher, logits or {}, device=device)


def settle(
    measured: Measured,
    settings: PruneSettings,
    plan: PruningPlan,
    prepared: tuple[Subject, Problem],
) -> tuple[Subject, Problem]:
    """What :func:`prepare` gave, with the heads that the plan leaves whole as they were, to the bit.

    Args:
        measured: as :func:`prepare` was given.
        settings: as there.
        plan: what was decided on.
        prepared: what :func:`prepare` gave.
    """
    of_heads = [decision for decision in plan.groups if decision.group.kind in ("qk", "vo", "dims")]
    lose = {decision.group.name for decision in of_heads if len(decision.cut)}
    if not settings.reconstruct or len(lose) == len(of_heads):
        return prepared
    turned = in_head_bases(measured.subject, *measured.in_memory(), rotate=lose)
    return turned.subject, problem_of(
        turned.subject, turned.moments, measured.sensitivity, turned.logits, prepared[1].costs.table
    )
