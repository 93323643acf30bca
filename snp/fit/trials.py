"""How far does the network's prediction really move when one group is cut?

Predicted damages assume small errors that are independent from position to position, and moments that say as much
about other samples as about those they were measured on. A trial assumes nothing: it cuts one group, fits its readers
on some calibration samples, and compares the predictions on others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from snp.core.gram import Moments
from snp.fit.joint import folded_weights
from snp.graph.batches import Batch, first_tensor
from snp.measure.moments import MomentCollector
from snp.plan.plan import GroupPlan, PruningPlan
from snp.plan.problem import Problem
from snp.surgery.subject import Subject
from snp.surgery.surgery import masked_weights, with_weights

__all__ = ["Trials"]

_SHARE = 4  # one calibration sample in so many is predicted, the others are fitted on
_MOST_SAMPLES = 128
_MOST_LOGITS = 2**26  # that are remembered; fewer samples where there are more


class Trials:
    """Trial cuts of single groups.

    Args:
        subject: the dense network.
        problem: its moments over all calibration inputs.
        inputs: the calibration inputs on the model's device, in batches.
    """

    def __init__(self, subject: Subject, problem: Problem, inputs: Sequence[Batch]) -> None:
        self._model = subject.model
        total = sum(batch.size for batch in inputs)
        with torch.no_grad():
            per_sample = self._logits({}, inputs[-1].first(1)).numel()
        most = min(_MOST_SAMPLES, _MOST_LOGITS // per_sample, total // _SHARE)
        self._probes = _last_samples(inputs, max(1, most))
        with torch.no_grad(), MomentCollector(subject.model, subject.readers) as collector:
            self._dense = [self._logits({}, batch).log_softmax(dim=-1) for batch in self._probes]
        others = {name: _without(problem.moments[name], part.cpu()) for name, part in collector.moments.items()}
        self._problem = replace(problem, moments=others)

    def __call__(self, number: int, kept: Tensor) -> float:
        """Divergence of the prediction from the dense network's with only these units of a group, in nats per sample.

        Args:
            number: of the group among the problem's.
            kept: its units that stay, shape [K].
        """
        decision = GroupPlan(self._problem.groups[number], kept.sort().values)
        weights = masked_weights(self._model, PruningPlan((decision,)))
        names = {member.tensor for member in decision.group.consumers}
        folded = folded_weights(self._problem, [decision], None, sorted(names & self._problem.readers.keys()))
        weights |= {name: weight.to(weights[name].device) for name, weight in folded.items()}
        moved = samples = 0.0
        with torch.no_grad():
            for batch, dense in zip(self._probes, self._dense, strict=True):
                found = self._logits(weights, batch).log_softmax(dim=-1)
                moved += float(F.kl_div(found, dense, reduction="sum", log_target=True))
                samples += batch.size
        return moved / samples

    def _logits(self, weights: dict[str, Tensor], batch: Batch) -> Tensor:
        if weights and any(isinstance(module, nn.RNNBase) for module in self._model.modules()):
            # Recurrent layers compute with a list of weights of their own, which a call with others does not reach.
            return first_tensor(batch.call(with_weights(self._model, weights, share=True))).float()
        return first_tensor(functional_call(self._model, weights, batch.args, dict(batch.kwargs))).float()


def _last_samples(batches: Sequence[Batch], count: int) -> list[Batch]:
    """The last batches, the first of them cut short, that hold so many samples."""
    found: list[Batch] = []
    for batch in reversed(batches):
        if count <= 0:
            break
        found.append(batch.first(count))
        count -= batch.size
    return found


def _without(moments: Moments, part: Moments) -> Moments:
    """Moments of the samples that are not in a part; of all where there are no others."""
    if moments.count <= part.count:
        return moments
    return Moments(moments.second - part.second, moments.first - part.first, moments.count - part.count)
