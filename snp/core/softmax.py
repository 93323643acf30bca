"""Which weights of a last layer make its class probabilities those of the dense network?

Least squares on logits takes the logit of a class that nobody holds for likely as seriously as that of the likeliest.
The divergence of probabilities does not, and is convex in the weights of the last layer:

    f(W, d) = mean KL(p || softmax(W z + d)) + ridge * (mean energy of a column * ||W - W_0||^2 + ||d - d_0||^2)

with inputs z beside their mean. Its one minimum is sought by L-BFGS from (W_0, d_0), the least-squares solution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from snp.core.sums import Sums

__all__ = ["Probabilities", "behind_softmax"]

_MOST_STEPS = 60
_HISTORY = 20


@dataclass(frozen=True, eq=False)
class Probabilities:
    """Samples of a last layer on this process.

    Attributes:
        inputs: what it reads, shape [N, K].
        wanted: logarithms of the dense network's class probabilities, shape [N, O].
    """

    inputs: Tensor
    wanted: Tensor

    @staticmethod
    def of(inputs: Tensor, logits: Tensor) -> Probabilities:
        """From inputs [N, K] and the dense network's logits [N, O], in double precision."""
        return Probabilities(inputs.double(), logits.double().log_softmax(dim=1))

    def __getitem__(self, rows: Tensor) -> Probabilities:
        return Probabilities(self.inputs[rows], self.wanted[rows])

    def divergences(self, weight_OK: Tensor, shift_O: Tensor) -> Tensor:
        """KL(wanted || softmax(W z + d)) of every sample, shape [N], in nats."""
        found = torch.addmm(shift_O, self.inputs, weight_OK.T).log_softmax(dim=1)
        return F.kl_div(found, self.wanted, reduction="none", log_target=True).sum(dim=1)


def behind_softmax(
    samples: Probabilities, weight_OK: Tensor, shift_O: Tensor, ridge: float, sums: Sums
) -> tuple[Tensor, Tensor]:
    """Weights [O, K] and offset [O] of least f, float64.

    Args:
        samples: of this process.
        weight_OK: where it starts, and what the ridge holds it to.
        shift_O: likewise.
        ridge: > 0; without it classes that some samples are sure of would ask for endless weights.
        sums: over all processes, which take the same steps.
    """
    assert ridge > 0, ridge
    count = sums.number(len(samples.inputs))
    mean = sums.of(samples.inputs.sum(dim=0)) / count
    centred, start = replace(samples, inputs=samples.inputs - mean), weight_OK.double()
    energy = sums.of(centred.inputs.square().sum()) / (count * len(mean))
    # Steps in units in which the penalty is the same for all entries.
    unit = energy.clamp_min(torch.finfo(torch.float64).tiny).sqrt()
    steps = _Steps(centred, start, shift_O.double() + start @ mean, unit, ridge, sums)
    weight, shift = steps.minimum(count)
    return weight, shift - weight @ mean


@dataclass(frozen=True, eq=False)
class _Steps:
    """L-BFGS from a start; attributes as in :func:`behind_softmax`, samples beside their mean."""

    samples: Probabilities
    weight: Tensor
    shift: Tensor
    unit: Tensor
    ridge: float
    sums: Sums

    def minimum(self, count: float) -> tuple[Tensor, Tensor]:
        """Weights and offset, of so many samples on all processes."""
        inputs, likely = self.samples.inputs, self.samples.wanted.exp()
        moved = [torch.zeros_like(self.weight), torch.zeros_like(self.shift)]

        def value() -> float:
            weight, shift = self.weight + moved[0] / self.unit, self.shift + moved[1]
            error = (torch.addmm(shift, inputs, weight.T).softmax(dim=1) - likely) / count
            moved[0].grad = self.sums.of(error.T @ inputs) / self.unit + 2 * self.ridge * moved[0]
            moved[1].grad = self.sums.of(error.sum(dim=0)) + 2 * self.ridge * moved[1]
            penalty = self.ridge * (moved[0].square().sum() + moved[1].square().sum())
            return float(self.sums.of(self.samples.divergences(weight, shift).sum()) / count + penalty)

        steps = torch.optim.LBFGS(
            moved, max_iter=_MOST_STEPS, history_size=_HISTORY, line_search_fn="strong_wolfe", tolerance_grad=1e-6
        )
        steps.step(value)
        return self.weight + moved[0] / self.unit, self.shift + moved[1]
