"""How far does the network's prediction really move when one group is cut?

Predicted damages assume small errors that are independent from position to position, and moments that say as much
about other samples as about those they were measured on. A trial assumes nothing: it cuts one group, fits its readers
on some calibration samples, and compares the predictions on others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from snp.core.gram import Moments
from snp.fit.joint import folded_weights
from snp.graph.batches import Batch
from snp.measure.moments import MomentCollector
from snp.measure.objective import Objective
from snp.measure.outputs import objective_of
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
        objective: how far outputs are from the dense network's; by default by what they look like.
    """

    def __init__(
        self, subject: Subject, problem: Problem, inputs: Sequence[Batch], objective: Objective | None = None
    ) -> None:
        self._model = subject.model
        self._objective = objective or objective_of(subject.model, inputs)
        total = sum(batch.size for batch in inputs)
        with torch.no_grad():
            first = pytree.tree_leaves(inputs[-1].first(1).call(subject.model))
            per_sample = sum(leaf.numel() for leaf in first if isinstance(leaf, Tensor))
        most = min(_MOST_SAMPLES, _MOST_LOGITS // per_sample, total // _SHARE)
        self._probes = _last_samples(inputs, max(1, most))
        with torch.no_grad(), MomentCollector(subject.model, subject.readers) as collector:
            self._dense = [batch.call(subject.model) for batch in self._probes]
        others = {name: _without(problem.moments[name], part.cpu()) for name, part in collector.moments.items()}
        self._problem = replace(problem, moments=others)

    def __call__(self, number: int, kept: Tensor) -> float:
        """Distance of the outputs from the dense network's with only these units of a group, in nats per sample.

        Args:
            number: of the group among the problem's.
            kept: its units that stay, shape [K].
        """
        decision = GroupPlan(self._problem.groups[number], kept.sort().values)
        weights = masked_weights(self._model, PruningPlan((decision,)))
        names = {member.tensor for member in decision.group.consumers}
        folded = folded_weights(self._problem, [decision], None, sorted(names & self._problem.readers.keys()))
        weights |= {name: weight.to(weights[name].device) for name, weight in folded.items()}
        # Not torch.func.functional_call: it leaves a tensor where the parameter of a module with two names was.
        cut, moved, samples = with_weights(self._model, weights, share=True), 0.0, 0
        with torch.no_grad():
            for batch, dense in zip(self._probes, self._dense, strict=True):
                found = batch.call(cut)
                moved += self._objective.distance(dense, found, batch.size)
                samples += batch.size
        return moved / samples


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
