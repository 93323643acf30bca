"""Which network of those on the way is nearest to the dense one on samples held back?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from snp.fit.tuning.features import FeatureTap, Place
from snp.fit.tuning.matching import distance
from snp.graph.batches import Batch
from snp.measure.objective import Objective

__all__ = ["Judge", "Nearest", "write_parameters"]

# Times the distance of the start. At a high rate the first epochs lead away, and as it falls it comes nearer than ever.
_FAR = 2.0


class Judge:
    """How far a network is from the dense one on samples held back: by what steps make smaller, or the user's word."""

    def __init__(self, dense: nn.Module, held_back: Sequence[Batch], objective: Objective, place: Place | None) -> None:
        self._batches, self._objective, self._place = held_back, objective, place
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
            for batch, (wanted, wanted_features) in zip(self._batches, self.wanted, strict=True):
                found, features = tap.run(batch)
                if self._objective.function is not None:
                    error = float(self._objective.function(wanted, found))
                else:
                    error = float(distance(self._objective, (wanted, wanted_features), (found, features), batch))
                total += error * batch.size
        return total / sum(batch.size for batch in self._batches)


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
        self.distances, self.kept, self.epoch = [judge.of_start(start)], _parameters(start), 0

    def heeds(self, parameters: Mapping[str, Tensor]) -> bool:
        """Judge further parameters, and keep the nearest; False where they are much farther away than the start."""
        write_parameters(parameters, self._model)
        self.distances.append(self.judge.distance(self._model))
        if self.distances[-1] < self.distances[self.epoch]:
            self.kept, self.epoch = _parameters(self._model), len(self.distances) - 1
        return self.distances[-1] <= _FAR * self.distances[0]

    def network(self) -> nn.Module:
        """The network with the parameters kept; nothing is judged any more."""
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
