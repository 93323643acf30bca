"""How far from the dense network is a whole plan, once its layers are fitted?

The layers are fitted in sequence on a part of the calibration samples, and the outputs compared on others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from snp.fit.realise import in_sequence
from snp.graph.batch_form import numbered
from snp.graph.batches import Batch
from snp.graph.residual import ResidualBlock
from snp.measure.objective import Objective
from snp.measure.outputs import most_remembered
from snp.plan.group_plan import GroupPlan
from snp.plan.plan import PruningPlan
from snp.plan.problem import Problem
from snp.plan.progress import Progress
from snp.settings import FitSettings
from snp.surgery.subject import Subject
from snp.surgery.surgery import with_weights

__all__ = ["FEWEST_SAMPLES", "FitJudge"]

FEWEST_SAMPLES = 128
_SHARE = 4  # one sample in so many is fitted on
_MOST_FITTED = 256
_PIECE = 32  # samples of a part, at most


class FitJudge:
    """Whole plans carried out on some samples, a :class:`snp.plan.problem.Judge`.

    Args:
        subject: the dense network.
        problem: its moments; a layer whose weight is read twice is folded by them.
        settings: how weights are fitted.
        samples: calibration inputs on the model's device, without mirrored ones; at least :data:`FEWEST_SAMPLES`.
        objective: how far outputs are from the dense network's.
        generator: draws the samples that are fitted on.
    """

    def __init__(
        self,
        subject: Subject,
        problem: Problem,
        settings: FitSettings,
        samples: Sequence[Batch],
        objective: Objective,
        generator: torch.Generator,
    ) -> None:
        self._subject, self._settings, self._objective = subject, settings, objective
        self._problem = replace(problem, progress=Progress())
        total = sum(batch.size for batch in samples)
        order = torch.randperm(total, generator=generator)
        num_fitted = min(_MOST_FITTED, total // _SHARE)
        num_judged = min(total - num_fitted, most_remembered(subject.model, samples[0]))
        self._fitted = numbered(samples, order[:num_fitted], samples[0].size)
        self._judged = numbered(samples, order[num_fitted : num_fitted + num_judged], _PIECE)
        with torch.no_grad():
            self._dense = [batch.call(subject.model) for batch in self._judged]

    def distances(self, groups: Sequence[GroupPlan], removed: Sequence[ResidualBlock] = ()) -> Tensor:
        """Of a plan, see :class:`snp.plan.problem.Judge`.

        Args:
            groups: what stays of every group.
            removed: blocks that go as a whole.
        """
        plan = PruningPlan(tuple(groups), attention=self._subject.graph.attention, removed_blocks=tuple(removed))
        fits = in_sequence(self._subject, self._problem, plan, self._settings, self._fitted)
        fitted = with_weights(self._subject.model, fits.tensors, share=True)
        with torch.no_grad():
            found = [
                self._objective.distance(dense, batch.call(fitted), batch) / batch.size
                for batch, dense in zip(self._judged, self._dense, strict=True)
            ]
        return torch.tensor(found, dtype=torch.float64)
