"""How far does the network's prediction really move when one group is cut?

Predicted damages assume small errors that are independent from position to position, and moments that say as much
about other samples as about those they were measured on. A trial assumes nothing: it cuts one group, fits its readers
on some calibration samples, and compares the predictions on others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from snp.core.gram import Moments
from snp.fit.joint import USUAL_RIDGE, folded_weights, without_chance
from snp.fit.probes import last_samples, without_last
from snp.fit.replay import Replay
from snp.fit.rows import batch_size_for, equal_batches
from snp.fit.skipped import weights_in_front
from snp.graph.batch_form import kind_of
from snp.graph.batches import Batch
from snp.graph.residual import ResidualBlock
from snp.graph.units import UnitGroup
from snp.measure.moments import MomentCollector
from snp.measure.objective import Objective
from snp.measure.outputs import most_remembered, objective_of
from snp.measure.readers import readers_to_fit
from snp.plan.placing import place_of
from snp.plan.plan import GroupPlan, PruningPlan
from snp.plan.problem import Problem
from snp.settings import FitSettings
from snp.surgery.passing import zeroed_writers
from snp.surgery.subject import Subject
from snp.surgery.surgery import masked_weights, with_weights

__all__ = ["Trials"]

_SHARE = 4  # one calibration sample in so many is predicted, the others are fitted on
_MOST_SAMPLES = 256
_MOST_FITTED = 512  # in front of blocks


class Trials:
    """Trial cuts of single groups, a :class:`snp.plan.problem.Trial`.

    Args:
        subject: the dense network.
        problem: its moments over all calibration inputs.
        inputs: the calibration inputs on the model's device, in batches.
        objective: how far outputs are from the dense network's; by default by what they look like.
        replays: start from the dense network's values in front of what is cut, on an exported program.
        fit: how weights in front of blocks that go are fitted; None leaves them as they are.
    """

    def __init__(
        self,
        subject: Subject,
        problem: Problem,
        inputs: Sequence[Batch],
        objective: Objective | None = None,
        *,
        replays: bool = False,
        fit: FitSettings | None = None,
    ) -> None:
        self._model = subject.model
        self.objective = objective or objective_of(subject.model, inputs)
        total = sum(batch.size for batch in inputs)
        most = min(_MOST_SAMPLES, most_remembered(subject.model, inputs[-1]), total // _SHARE)
        self._probes = last_samples(inputs, max(1, most))
        self._replay = None
        if replays and len({kind_of(batch) for batch in self._probes}) == 1:
            # Of the size that is fitted in sequence, so that one exported program serves both.
            self._probes = equal_batches(self._probes, min(max(1, most), batch_size_for(total)))
            exported = subject.exports.of(subject.model, self._probes[0])
            self._replay = None if exported.outputs is None else Replay(exported, self._probes)
        with torch.no_grad(), MomentCollector(subject.model, subject.readers) as collector:
            self._dense = [batch.call(subject.model) for batch in self._probes]
        others = {name: _others(problem, name, part).cpu() for name, part in collector.moments.items()}
        self._problem = replace(problem, moments=others)
        self._subject, self._fit, self._inputs, self._num_probes = subject, fit, inputs, max(1, most)

    @cached_property
    def _in_front(self) -> dict[str, dict[str, Tensor]]:
        """Weights in front of each block that make up for it, fitted on samples that are not predicted."""
        problem, subject = self._problem, self._subject
        if self._fit is None:
            return {}
        readers = readers_to_fit(subject.model, subject.graph, problem.groups, self._fit)
        others = without_last(self._inputs, self._num_probes, _MOST_FITTED)
        return weights_in_front(subject, others, readers, self._fit, problem.blocks)

    def distance(self, group: UnitGroup, kept: Tensor) -> float:
        """Distance of the outputs from the dense network's with only these units of a group, in nats per sample.

        Args:
            group: of the dense network.
            kept: its units that stay, shape [K].
        """
        decision = GroupPlan(group, kept.sort().values)
        weights = masked_weights(self._model, PruningPlan((decision,)))
        names = {member.tensor for member in group.consumers}
        folded = folded_weights(self._problem, [decision], USUAL_RIDGE, sorted(names & self._problem.readers.keys()))
        return self._moved(weights | {name: weight.to(weights[name].device) for name, weight in folded.items()})

    def distance_without(self, block: ResidualBlock) -> float:
        """Distance of the outputs from the dense network's without a block, in nats per sample.

        Args:
            block: of the problem.
        """
        zeros, in_front = zeroed_writers(self._model, [block]), self._in_front.get(block.name)
        alone = self._moved(zeros)
        return alone if in_front is None else min(alone, self._moved(zeros | in_front))

    def _moved(self, weights: dict[str, Tensor]) -> float:
        """How far the outputs are from the dense network's with some other weights."""
        with torch.no_grad():
            outputs = self._outputs(weights)
            moved = (
                self.objective.distance(dense, found, batch)
                for batch, dense, found in zip(self._probes, self._dense, outputs, strict=True)
            )
            return sum(moved) / sum(batch.size for batch in self._probes)

    def _outputs(self, weights: dict[str, Tensor]) -> Iterable[Any]:
        if self._replay is not None:
            return self._replay.outputs(weights)
        # Not torch.func.functional_call: it leaves a tensor where the parameter of a module with two names was.
        cut = with_weights(self._model, weights, share=True)
        return (batch.call(cut) for batch in self._probes)


def _others(problem: Problem, name: str, part: Moments) -> Moments:
    """Moments of a reader's samples that are not in a part, without chance; of all where there are no others."""
    reader = problem.readers[name]
    place = place_of(problem.device, (reader.num_columns,))
    moments, part = problem.moments[name].to(place), part.to(place)
    if moments.count > part.count:
        moments = Moments(moments.second - part.second, moments.first - part.first, moments.count - part.count)
    return without_chance(reader, moments)
