"""How is a pruned network tuned on the dense one's outputs?  Gradient steps from the least-squares weights, no labels.

What is learned from is what the dense network says of calibration samples, its outputs and its last hidden features;
samples held back decide which epoch is kept, be it none. It is training all the same, and reported apart.

SGD with momentum, a rate that rises for a twentieth of the steps and then falls to zero, on the softened divergence of
logits (or the squared error that the objective holds other outputs to) plus the relative error of the features. A
running mean of the weights is what is judged. An epoch that ends farther from the dense network than the start is
undone, and the rate is a quarter from there on. Both networks stay in evaluation mode: statistics of norms do not move,
nothing is dropped. Networks in half precision are tuned in single precision; what is judged and given back is rounded
to their own.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snp.fit.tuning.features import FeatureTap, Place, common_features
from snp.fit.tuning.lesson import HALF, Lesson
from snp.fit.tuning.matching import distance, learnable
from snp.fit.tuning.samples import TuningSamples
from snp.graph.batches import Batch
from snp.graph.copies import copied
from snp.measure.objective import Objective
from snp.measure.outputs import objective_of
from snp.measure.views import Views, views_of
from snp.plan.progress import Progress
from snp.settings import PruneSettings

__all__ = ["Tuned", "tune"]

_SLOWER = 0.25  # the rate becomes so much of itself where an epoch led away
_MOST_OUTPUTS = 2**26  # values that are remembered of samples held back, and computed at once


@dataclass(frozen=True, eq=False)
class Tuned:
    """What tuning gave.

    Attributes:
        model: the tuned network in evaluation mode, with the shapes and precision of the one it began with.
        distances: to the dense network on samples held back, by what steps make smaller (or the user's objective), mean
            over samples: of the start, and after every epoch.
        epoch: that is kept, the one with the smallest distance; 0 is the start.
        num_tuned, num_held: samples that it was tuned on, and that were held back.
        views: how images were shown.
        place: whose features were matched; None where the networks have none in common.
        rate: at its peak in the end; lower than asked for where steps were too large.
    """

    model: nn.Module
    distances: tuple[float, ...]
    epoch: int
    num_tuned: int
    num_held: int
    views: Views
    place: Place | None
    rate: float

    def __str__(self) -> str:
        before, after = self.distances[0], self.distances[self.epoch]
        return (
            f"Tuned without labels on {self.num_tuned} samples ({self.views}), {len(self.distances) - 1} epochs at "
            f"{self.rate:g}: {before:.4g} from the dense network became {after:.4g} on {self.num_held} samples held "
            f"back (epoch {self.epoch})."
        )


def tune(
    small: nn.Module,
    dense: nn.Module,
    inputs: Sequence[Batch],
    settings: PruneSettings,
    progress: Progress | None = None,
) -> Tuned:
    """Move a pruned network's outputs and last hidden features towards the dense one's.

    Args:
        small: the pruned network in evaluation mode; not changed.
        dense: the network it comes from, likewise.
        inputs: calibration inputs on the device of both.
        settings: ``tune_epochs``, ``tune_rate``, ``tune_views``, ``objective`` and ``seed``.
        progress: is told of the stage.

    Returns:
        The network of the epoch that is nearest on samples held back, never farther than ``small`` itself.

    Raises:
        ValueError: too few samples, views of what are no images, or outputs that no gradient reaches.
    """
    progress = progress or Progress()
    objective = objective_of(dense, inputs, settings.objective)
    generator, most_held = torch.Generator().manual_seed(settings.seed), _most_held(dense, inputs[0])
    samples = TuningSamples(inputs, most_held, generator)
    views = views_of(dense, inputs, objective, settings.tune_views, settings.seed)
    place = common_features(dense, small, inputs[0].example())
    nearest = _Nearest(copied(small), _Judge(dense, samples.held_back, objective, place))
    with progress.stage("tune", settings.tune_epochs), _trainable(small) as student:
        lesson = Lesson(dense, student, learnable(objective, nearest.judge.wanted[0][0]), place, views)
        lesson.begin(settings.tune_rate)
        for _ in range(settings.tune_epochs):
            lesson.epoch(samples, settings.tune_epochs, generator)
            if not nearest.heeds(lesson.mean):  # steps are too large for this network
                _write_parameters(nearest.kept, student)
                lesson.begin(_SLOWER * lesson.rate)
            progress.step()
    counts = samples.num_tuned, samples.num_held
    return Tuned(nearest.network(), tuple(nearest.distances), nearest.epoch, *counts, views, place, lesson.rate)


def _most_held(model: nn.Module, batch: Batch) -> int:
    """Samples whose outputs may be remembered at once."""
    with torch.no_grad():
        leaves = pytree.tree_leaves(batch.first(1).call(model))
    per_sample = sum(leaf.numel() for leaf in leaves if isinstance(leaf, Tensor))
    return max(1, _MOST_OUTPUTS // max(1, per_sample))


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def _write_parameters(values: Mapping[str, Tensor], model: nn.Module) -> None:
    """Rounded to the precision of the network."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in values:
                parameter.copy_(values[name])


@contextlib.contextmanager
def _trainable(small: nn.Module) -> Iterator[nn.Module]:
    """A copy in evaluation mode whose parameters all learn, of single precision at least."""
    student = copied(small).eval()
    tensors = [*student.parameters(), *student.buffers()]
    if any(tensor.dtype in HALF for tensor in tensors):
        student = student.float()
    for parameter in student.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    # cuDNN's recurrent layers have no gradients in evaluation mode.
    recurs = any(isinstance(module, nn.RNNBase) for module in student.modules())
    with torch.backends.cudnn.flags(enabled=False) if recurs else contextlib.nullcontext():
        yield student


class _Judge:
    """How far a network is from the dense one on samples held back: by what steps make smaller, or the user's word."""

    def __init__(self, dense: nn.Module, held_back: Sequence[Batch], objective: Objective, place: Place | None) -> None:
        self._batches, self._objective, self._place = held_back, objective, place
        with torch.no_grad(), FeatureTap(dense, place) as tap:
            self.wanted = [tap.run(batch) for batch in held_back]

    def distance(self, model: nn.Module) -> float:
        """Mean over samples; infinite where it is not finite."""
        total = 0.0
        with torch.no_grad(), FeatureTap(model, self._place) as tap:
            for batch, (wanted, wanted_features) in zip(self._batches, self.wanted, strict=True):
                found, features = tap.run(batch)
                if self._objective.function is not None:
                    error = float(self._objective.function(wanted, found))
                else:
                    error = float(distance(self._objective, (wanted, wanted_features), (found, features), batch))
                total += error * batch.size
        mean = total / sum(batch.size for batch in self._batches)
        return mean if math.isfinite(mean) else math.inf


class _Nearest:
    """The parameters of a network that came nearest to the dense one so far.

    Args:
        start: where tuning begins; parameters that are judged are written into it.
        judge: of the distance.

    Attributes:
        distances: of the start, and of all that was judged.
        kept: name -> parameter at the smallest distance.
        epoch: which one that is; 0 is the start.
    """

    def __init__(self, start: nn.Module, judge: _Judge) -> None:
        self._model, self.judge = start, judge
        self.distances, self.kept, self.epoch = [judge.distance(start)], _parameters(start), 0

    def heeds(self, parameters: Mapping[str, Tensor]) -> bool:
        """Judge further parameters, and keep the nearest; False where they are farther away than the start."""
        _write_parameters(parameters, self._model)
        self.distances.append(self.judge.distance(self._model))
        if self.distances[-1] < self.distances[self.epoch]:
            self.kept, self.epoch = _parameters(self._model), len(self.distances) - 1
        return self.distances[-1] <= self.distances[0]

    def network(self) -> nn.Module:
        """The network with the parameters kept; nothing is judged any more."""
        _write_parameters(self.kept, self._model)
        return self._model
