"""What do calibration samples say of a network?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from snp.core.gram import Moments
from snp.core.sums import ALONE, Sums
from snp.graph.batches import Batch
from snp.measure.moments import MomentCollector
from snp.measure.objective import Objective
from snp.measure.outputs import objective_of
from snp.measure.sensitivity import measure_sensitivity
from snp.measure.views import is_mirrored
from snp.plan.progress import Progress
from snp.settings import PruneSettings
from snp.surgery.subject import Subject

__all__ = ["FEW", "Measured", "Sensitivity", "measure", "mirrors", "sensitivity_of"]

FEW = 64  # samples that tell whether mirrored images are calibrated on, too


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """How much a network's output moves with errors at its layers; empty where nobody asks.

    Attributes:
        fisher: weight name -> Fisher matrix of the layer's outputs, shape [O, O].
        objective: by which the output was measured, on all calibration inputs.
    """

    fisher: Mapping[str, Tensor] = field(default_factory=dict)
    objective: Objective | None = None


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
    sensitivity: Sensitivity = field(default_factory=Sensitivity)

    def in_memory(self) -> tuple[dict[str, Moments], dict[str, Tensor]]:
        """Moments and Fisher matrices in main memory."""
        moments = {name: entry.cpu() for name, entry in self.moments.items()}
        return moments, {name: matrix.cpu() for name, matrix in self.sensitivity.fisher.items()}


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
) -> Sensitivity:
    """How much the output moves with errors at each reader, from the first half of the calibration inputs."""
    few = inputs[: max(1, (len(inputs) + 1) // 2)]
    generator = torch.Generator().manual_seed(settings.seed)
    objective = objective_of(subject.model, inputs, settings.objective)
    return Sensitivity(measure_sensitivity(subject.model, few, subject.readers, generator, sums, objective), objective)


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
