"""Which network of those on the way is nearest to the dense one on samples held back?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snp.fit.tuning.chance import NUM_PARTS, is_lower
from snp.fit.tuning.features import FeatureTap, Place
from snp.fit.tuning.matching import distance
from snp.fit.tuning.state import TuningState
from snp.graph.batches import Batch
from snp.measure.objective import Objective

__all__ = ["Judge", "Nearest", "write_parameters"]

# More than the start by so many times its distance. At a high rate the first epochs lead away, and as it falls it comes
# nearer than ever.
_FAR = 1.0


class Judge:
    """How far a network is from the dense one on samples held back: by what steps make smaller, or the user's word."""

    def __init__(self, dense: nn.Module, held_back: Sequence[Batch], objective: Objective, place: Place | None) -> None:
        self._dense, self._batches, self._objective, self._place = dense, held_back, objective, place
        with torch.no_grad(), FeatureTap(dense, place) as tap:
            self.wanted = [tap.run(batch) for batch in held_back]

    def distance(self, model: nn.Module) -> float:
        """Mean over samples; infinite where it is not finite."""
        mean = self._mean(model)
        return mean if math.isfinite(mean) else math.inf

    def of_start(self, model: nn.Module) -> float:
        """The same of the network that tuning begins with, which no step led astray.

        Raises:
            ValueError: the user's own objective is not finite there.
        """
        mean = self._mean(model)
        if self._objective.function is not None and not math.isfinite(mean):
            raise ValueError(
                f"prune.objective ({self._objective}) is not finite: it gave {mean} for outputs of the pruned network"
            )
        return mean if math.isfinite(mean) else math.inf

    def _mean(self, model: nn.Module) -> float:
        total = 0.0
        with torch.no_grad(), FeatureTap(model, self._place) as tap:
            for batch, wanted in zip(self._batches, self.wanted, strict=True):
                total += self._error(wanted, tap.run(batch), batch) * batch.size
        return total / sum(batch.size for batch in self._batches)

    def _error(self, wanted: tuple[Any, Tensor | None], found: tuple[Any, Tensor | None], batch: Batch) -> float:
        if self._objective.function is not None:
            return float(self._objective.said(wanted[0], found[0]))
        return float(distance(self._objective, wanted, found, batch))

    def is_nearer(self, model: nn.Module, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> bool:
        """Is a network nearer with some parameters than with others, by more than parts of the samples differ in that?

        Args:
            model: the parameters are written into it.
            before: name -> parameter.
            after: those that are to be nearer.
        """
        size = math.ceil(sum(batch.size for batch in self._batches) / NUM_PARTS)
        parts = [part for batch in self._batches for part in batch.split(size)]
        errors = list[list[float]]()
        with torch.no_grad(), FeatureTap(self._dense, self._place) as dense, FeatureTap(model, self._place) as tap:
            for parameters in (before, after):
                write_parameters(parameters, model)
                errors.append([self._error(dense.run(part), tap.run(part), part) for part in parts])
        sizes = torch.tensor([part.size for part in parts])
        return is_lower(torch.tensor(errors[0]), torch.tensor(errors[1]), sizes)


class Nearest:
    """The parameters of a network that came nearest to the dense one so far.

    Args:
        start: where tuning begins; parameters that are judged are written into it.
        judge: of the distance.

    Attributes:
        distances: of the start, and of all that was judged.
        kept: name -> parameter at the smallest distance.
        epoch: which one that is; 0 is the start.
    """

    def __init__(self, start: nn.Module, judge: Judge) -> None:
        self._model, self.judge = start, judge
        self.distances, self.epoch = [judge.of_start(start)], 0
        self.kept = self._start = _parameters(start)

    def state(self) -> TuningState:
        """What was judged, and what is kept of it."""
        return TuningState(self.kept, {"distances": self.distances, "epoch": self.epoch})

    def go_on(self, state: TuningState) -> None:
        """From where another one was, of the same start."""
        self.distances, self.epoch = [*state.numbers["distances"]], state.numbers["epoch"]
        self.kept = {name: state.tensors[name].to(each) for name, each in self.kept.items()}

    def heeds(self, parameters: Mapping[str, Tensor]) -> bool:
        """Judge further parameters, and keep the nearest; False where they are much farther away than the start."""
        write_parameters(parameters, self._model)
        self.distances.append(self.judge.distance(self._model))
        if self.distances[-1] < self.distances[self.epoch]:
            self.kept, self.epoch = _parameters(self._model), len(self.distances) - 1
        start = self.distances[0]  # below zero, where a function of the user's begins there
        return self.distances[-1] <= start + _FAR * abs(start)

    def network(self) -> nn.Module:
        """The network with the parameters kept; nothing is judged any more.

        The start comes back where they are not nearer by more than chance: the nearest of many always seems to be.
        """
        if self.epoch and not self.judge.is_nearer(self._model, self._start, self.kept):
            self.kept, self.epoch = self._start, 0
        write_parameters(self.kept, self._model)
        return self._model


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def write_parameters(values: Mapping[str, Tensor], model: nn.Module) -> None:
    """Rounded to the precision of the network."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in values:
                parameter.copy_(values[name])
