"""What do calibration samples say of a network?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from snp.core.gram import Moments
from snp.graph.batches import Batch
from snp.measure.checkpointed import checkpointed
from snp.measure.moments import MomentCollector
from snp.measure.near_copies import without_near_copies
from snp.measure.objective import Objective
from snp.measure.outputs import beside_spread_of, objective_of
from snp.measure.samples import GivenSamples, Samples
from snp.measure.sensitivity import measure_sensitivity
from snp.measure.streamed import stream_moments
from snp.measure.views import is_mirrored, with_mirrored
from snp.plan.problem import LogitStatistics
from snp.plan.progress import Progress
from snp.settings import PruneSettings
from snp.surgery.subject import Subject

__all__ = ["Measured", "calibrate", "moments_of", "objective_asked", "sensitivity_of"]


@dataclass(frozen=True, eq=False)
class Measured:
    """What samples said of a network.

    Attributes:
        subject: the dense network.
        moments: of its readers' inputs, by weight name.
        samples: those that are looked at again.
        objective: how far its outputs are from others; None where nobody asks.
        sensitivity: weight name -> Fisher matrix of the layer's outputs, shape [O, O]; empty where nobody asks.
        streams: group name -> what the directions of a stream hold, once it lies in the basis that suits a cut.
    """

    subject: Subject
    moments: Mapping[str, Moments]
    samples: Samples = field(default_factory=Samples)
    objective: Objective | None = None
    sensitivity: Mapping[str, Tensor] = field(default_factory=dict)
    streams: Mapping[str, LogitStatistics] = field(default_factory=dict)

    def asked(self) -> Objective:
        """The objective, for what is only done where somebody asks."""
        assert self.objective is not None, "objective_asked knows who looks at outputs"
        return self.objective

    def in_memory(self) -> tuple[dict[str, Moments], dict[str, Tensor]]:
        """Moments and Fisher matrices in main memory."""
        moments = {name: entry.cpu() for name, entry in self.moments.items()}
        return moments, {name: matrix.cpu() for name, matrix in self.sensitivity.items()}


def calibrate(
    subject: Subject, given: GivenSamples, settings: PruneSettings, progress: Progress, folder: Path | None = None
) -> Measured:
    """Everything that is measured on the dense network before units are chosen.

    Args:
        subject: the dense network.
        given: the samples; they are used up.
        settings: what will be asked of the samples.
        progress: is told of the stages.
        folder: gets moments that are measured block by block; None keeps all of them in memory.
    """
    model, measure = subject.model, _moments if folder is None else partial(_streamed, folder)
    with progress.stage("calibrate", given.num_batches), given.blamed(model):
        few = [batch.beside(model) for batch in given.few]
        with subject.visits.of(model):
            objective = objective_asked(subject, few, settings)
            mirrored = is_mirrored(model, few, objective, settings.mirrors)
        shown = (with_mirrored(batch) if mirrored else batch for batch in given)
        moments, samples, inputs = measure(subject, shown, settings.needs_inputs, progress)
        distinct = without_near_copies(inputs, 1 + mirrored)
        if num_near := samples - sum(batch.size for batch in distinct) if inputs else 0:
            moments, samples, inputs = measure(subject, distinct, True, progress)
        num_samples, num_near = samples // (1 + mirrored), num_near // (1 + mirrored)
    with progress.stage("measure sensitivity"):
        with subject.visits.of(model):
            objective = objective and beside_spread_of(objective, model, inputs)
        fisher = sensitivity_of(subject, inputs, objective, settings.seed) if settings.needs_sensitivity else {}
    return Measured(
        subject, moments, Samples(inputs, mirrored, num_samples, given.num_repeats + num_near), objective, fisher
    )


def _streamed(
    folder: Path, subject: Subject, batches: Iterable[Batch], keeps_inputs: bool, progress: Progress
) -> tuple[Mapping[str, Moments], int, list[Batch]]:
    """The same, block by block, with moments on disk."""
    inputs = [batch.beside(subject.model) for batch in batches]
    moments = stream_moments(subject.model, inputs, subject.readers, folder, visits=subject.visits)
    return moments, sum(batch.size for batch in inputs), inputs if keeps_inputs else []


def _moments(
    subject: Subject, batches: Iterable[Batch], keeps_inputs: bool, progress: Progress
) -> tuple[Mapping[str, Moments], int, list[Batch]]:
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


def moments_of(subject: Subject, samples: Sequence[Batch], folder: Path) -> Mapping[str, Moments]:
    """Of some samples on the device of the network alone.

    Args:
        subject: the dense network.
        samples: in batches.
        folder: keeps the moments where the network is worked on block by block.
    """
    measure = partial(_streamed, folder) if subject.blocks else _moments
    return measure(subject, samples, False, Progress())[0]


def objective_asked(subject: Subject, batches: Sequence[Batch], settings: PruneSettings) -> Objective | None:
    """What is asked of the network's outputs, decided once; None where nothing looks at them.

    Args:
        subject: the dense network.
        batches: some calibration inputs on its device.
        settings: ``objective``, and what would look.
    """
    is_looked_at = (
        settings.mirrored == "auto" or settings.needs_sensitivity or settings.is_tuned or settings.ridge is None
    )
    if not (settings.needs_inputs and is_looked_at):
        return None
    return objective_of(subject.model, batches, settings.objective)


def sensitivity_of(
    subject: Subject, inputs: Sequence[Batch], objective: Objective | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """How much the output moves with errors at each reader, from the first half of the calibration inputs.

    Returns:
        Weight name -> Fisher matrix of the layer's outputs, shape [O, O].
    """
    few = inputs[: max(1, (len(inputs) + 1) // 2)]
    generator = torch.Generator().manual_seed(seed)
    model, visits = subject.model, subject.visits
    with visits.of(model):
        objective = objective or objective_of(model, inputs)
        with checkpointed(model, subject.blocks, visits):
            return measure_sensitivity(model, few, subject.sensitive, generator, objective=objective, visits=visits)
