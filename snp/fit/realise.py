"""How does a plan become a smaller network?  Weights are fitted, units are cut, and the result is checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from snp.core.sums import ALONE, Sums
from snp.fit.joint import fitted_jointly, folded_weights, kept_columns
from snp.fit.sequential import Fits, ToFit, fit_in_sequence
from snp.fit.tuning.samples import held_back, without
from snp.graph.batches import Batch
from snp.graph.plain_experts import restacked
from snp.measure.readers import readers_to_fit
from snp.measure.views import without_mirrored
from snp.plan.plan import PruningPlan
from snp.plan.problem import Problem
from snp.settings import PruneSettings
from snp.surgery.checks import self_check
from snp.surgery.counts import check_counts
from snp.surgery.subject import Subject
from snp.surgery.surgery import cut, masked_weights, silent_rows, with_weights

__all__ = ["Realised", "realise"]


@dataclass(frozen=True, eq=False)
class Realised:
    """A small network.

    Attributes:
        model: in evaluation mode.
        check: largest relative difference to the masked dense network on one batch.
        fitted_samples: samples on this process that the sequential fit had memory for; 0 without one.
    """

    model: nn.Module
    check: float
    fitted_samples: int


def realise(
    subject: Subject,
    problem: Problem,
    plan: PruningPlan,
    settings: PruneSettings,
    inputs: Sequence[Batch] = (),
    sums: Sums = ALONE,
    *,
    share: bool = False,
) -> Realised:
    """The small network of a plan.

    Args:
        subject: the dense network.
        problem: its moments; its progress is told of the stages.
        plan: the units that stay.
        settings: how weights are fitted.
        inputs: calibration inputs on the model's device, for ``calibration="sequential"``; those that tuning is judged
            by are left out where the network will be tuned.
        sums: over all processes.
        share: tensors that lose nothing are the dense network's own, so that it is not in memory twice.

    Raises:
        SelfCheckError: the small network differs from the dense one with the same units masked, or its cost is not
            what the plan says.
    """
    if not settings.reconstruct:
        fits = Fits(masked_weights(subject.model, plan))
    elif settings.is_sequential:
        fits = _in_sequence(subject, problem, plan, settings, inputs, sums)
    else:
        fits = Fits(fitted_jointly(subject.model, problem, plan, settings.ridge))
    with problem.progress.stage("cut and check"):
        masked = with_weights(subject.model, fits.tensors, share=share)
        small = cut(masked, plan, share=share)
        difference = self_check(masked, small, subject.example, plan)
        check_counts(subject.model, small, subject.example, plan)
        small = restacked(small)
    return Realised(small, difference, fits.samples)


def _in_sequence(
    subject: Subject,
    problem: Problem,
    plan: PruningPlan,
    settings: PruneSettings,
    inputs: Sequence[Batch],
    sums: Sums,
) -> Fits:
    readers = readers_to_fit(subject.model, subject.graph, subject.groups, settings.fit)
    kept = {name: kept_columns(reader, plan.groups) for name, reader in readers.items()}

    def start(name: str) -> Tensor:
        return folded_weights(problem, plan.groups, settings.ridge, [name])[name]

    wanted = ToFit(readers, kept, start, silent_rows(plan))
    mirrored = plan.settings.get("mirrored") is True
    if settings.is_tuned and settings.tune_epochs:
        images = [without_mirrored(batch) for batch in inputs] if mirrored else inputs
        inputs = without(inputs, held_back(subject.model, images, settings.seed))
    with problem.progress.stage("fit weights", len(readers)):
        return fit_in_sequence(subject, inputs, wanted, settings.fit, sums, problem.progress, mirrored=mirrored)
