"""How is a pruned network tuned on the dense one's outputs?  Gradient steps from the least-squares weights, no labels.

What is learned from is what the dense network says of calibration samples, its outputs and its last hidden features;
samples held back decide which epoch is kept, be it none. It is training all the same, and reported apart.

SGD with momentum or AdamW, at a rate that rises for a twentieth of the steps and then falls to zero, on the softened
divergence of logits (or the squared error that the objective holds other outputs to) plus the relative error of the
features. A running mean of the weights is what is judged. An epoch that ends twice as far from the dense network as the
start is undone, and the rate is a quarter from there on: nearer than that, a high rate comes back when it falls. Both
networks stay in evaluation mode: statistics of norms do not move, nothing is dropped. Networks in half precision are
tuned in single precision; what is judged and given back is rounded to their own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from snp.fit.tuning.features import Place, common_features
from snp.fit.tuning.lesson import HALF, Lesson, single_precision
from snp.fit.tuning.matching import learnable
from snp.fit.tuning.nearest import Judge, Nearest, write_parameters
from snp.fit.tuning.samples import TuningSamples, held_back
from snp.fit.tuning.state import Keeper, TuningState
from snp.fit.tuning.steps import Steps, steps_of
from snp.graph.batches import Batch
from snp.graph.copies import copied
from snp.measure.objective import Objective
from snp.measure.outputs import beside_spread_of
from snp.measure.views import Views, views_of
from snp.plan.progress import Progress
from snp.settings import PruneSettings

__all__ = ["Tuned", "tune"]

_SLOWER = 0.25  # the rate becomes so much of itself where an epoch led away


@dataclass(frozen=True, eq=False)
class Tuned:
    """What tuning gave.

    Attributes:
        model: the tuned network in evaluation mode, with the shapes and precision of the one it began with.
        distances: to the dense network on samples held back, by what steps make smaller (or the user's objective), mean
            over samples: of the start, and after every epoch.
        epoch: that is kept, the one with the smallest distance; 0 is the start, if no other is more than chance.
        num_tuned, num_held: samples that it was tuned on, and that were held back.
        views: how images were shown.
        place: whose features were matched; None where the networks have none in common.
        steps: that were taken in the end; at a lower rate than asked for where they were too large.
    """

    model: nn.Module
    distances: tuple[float, ...]
    epoch: int
    num_tuned: int
    num_held: int
    views: Views
    place: Place | None
    steps: Steps

    def __str__(self) -> str:
        before, after = self.distances[0], self.distances[self.epoch]
        epochs = len(self.distances) - 1
        return (
            f"Tuned without labels on {self.num_tuned} samples ({self.views}), {epochs} epoch{'s' * (epochs != 1)} of "
            f"{self.steps.optimizer} at {self.steps.rate:g}: {before:.4g} from the dense network became "
            f"{after:.4g} on {self.num_held} samples held back (epoch {self.epoch})."
        )


def tune(
    small: nn.Module,
    dense: nn.Module,
    inputs: Sequence[Batch],
    objective: Objective,
    settings: PruneSettings,
    progress: Progress | None = None,
    keeper: Keeper | None = None,
) -> Tuned:
    """Move a pruned network's outputs and last hidden features towards the dense one's.

    Args:
        small: the pruned network in evaluation mode; not changed.
        dense: the network it comes from, likewise.
        inputs: calibration inputs on the device of both; ``small`` was fitted on those of :func:`left_to_fit`.
        objective: how far their outputs are apart.
        settings: those of tuning, and ``seed``.
        progress: is told of the stage.
        keeper: is offered the state after every epoch, and asked at the beginning for that of an earlier start with
            these very arguments; what comes of both is what comes of one.

    Returns:
        The network of the epoch that is nearest on samples held back, never farther than ``small`` itself.

    Raises:
        ValueError: too few samples, views of what are no images, or outputs that no gradient reaches.
    """
    progress, generator = progress or Progress(), torch.Generator().manual_seed(settings.seed)
    objective, is_held = beside_spread_of(objective, dense, inputs), held_back(dense, inputs, settings.seed)
    samples = TuningSamples(inputs, is_held)
    views = views_of(dense, inputs, objective, settings.tune_views, settings.seed)
    place, steps = common_features(dense, small, inputs[0].example()), steps_of(small, settings)
    nearest = Nearest(copied(small), Judge(dense, samples.held_back, objective, place))
    with progress.stage("tune", steps.epochs), _trainable(small, inputs[0].example()) as student:
        lesson = Lesson(dense, student, learnable(objective, nearest.judge.wanted[0][0]), place, views)
        lesson.begin(steps)
        for _ in _Tuning(lesson, nearest, generator).epochs(samples, student, keeper):
            progress.step()
    counts, found = (samples.num_tuned, samples.num_held), nearest.network()
    return Tuned(found, tuple(nearest.distances), nearest.epoch, *counts, views, place, lesson.steps)


@dataclass(frozen=True, eq=False)
class _Tuning:
    """All that an epoch moves."""

    lesson: Lesson
    nearest: Nearest
    generator: torch.Generator

    def epochs(self, samples: TuningSamples, student: nn.Module, keeper: Keeper | None) -> Iterator[None]:
        """All of them; those that an earlier start has kept are only counted."""
        before = keeper.last() if keeper else None
        if before is not None:
            self._go_on(before)
        num_done = len(self.nearest.distances) - 1
        for epoch in range(self.lesson.steps.epochs):
            if epoch >= num_done:
                self._epoch(samples, student)
                if keeper:
                    keeper.offer(self._state)
            yield

    def _epoch(self, samples: TuningSamples, student: nn.Module) -> None:
        """One; where steps are too large for this network, back to where it was nearest."""
        self.lesson.epoch(samples, self.generator)
        if not self.nearest.heeds(self.lesson.mean):
            write_parameters(self.nearest.kept, student)
            self.lesson.begin(self.lesson.steps.slower(_SLOWER))

    def _state(self) -> TuningState:
        chance = TuningState({"generator": self.generator.get_state()}, {})
        return TuningState.joined(lesson=self.lesson.state(), nearest=self.nearest.state(), chance=chance)

    def _go_on(self, state: TuningState) -> None:
        self.lesson.go_on(state.part("lesson"))
        self.nearest.go_on(state.part("nearest"))
        self.generator.set_state(state.part("chance").tensors["generator"])


def _refuse_types(student: nn.Module, types: set[torch.dtype], example: Batch) -> None:
    """Of networks of several types, those whose code asks for them: in one type they do not run."""
    try:
        with torch.no_grad():
            single_precision(example, student).call(student)
    except RuntimeError as error:
        names = ", ".join(sorted(str(each).removeprefix("torch.") for each in types))
        raise ValueError(
            f"prune.reconstruct=tuned trains in single precision, in which this network of {names} does not run "
            f"({str(error).splitlines()[0]}); give it in one type, or ask for prune.reconstruct=true"
        ) from error


@contextlib.contextmanager
def _trainable(small: nn.Module, example: Batch) -> Iterator[nn.Module]:
    """A copy in evaluation mode whose parameters all learn, of single precision at least."""
    student = copied(small).eval()
    types = {tensor.dtype for tensor in (*student.parameters(), *student.buffers()) if tensor.is_floating_point()}
    if types & {*HALF}:
        student = student.float()
    if types & {*HALF} and len(types) > 1:
        _refuse_types(student, types, example)
    for parameter in student.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    # cuDNN's recurrent layers have no gradients in evaluation mode.
    recurs = any(isinstance(module, nn.RNNBase) for module in student.modules())
    with torch.backends.cudnn.flags(enabled=False) if recurs else contextlib.nullcontext():
        yield student
