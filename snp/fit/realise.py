"""How does a plan become a smaller network?  Weights are fitted, units are cut, and the result is checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from snp.core.sums import ALONE, Sums
from snp.fit.joint import folded_weights, kept_columns
from snp.fit.sequential import Fits, fit_in_sequence
from snp.graph.batches import Batch
from snp.graph.plain_experts import restacked
from snp.measure.readers import limited, other_readers, readers_of
from snp.plan.plan import PruningPlan
from snp.plan.problem import Problem
from snp.plan.progress import Progress
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
    progress: Progress | None = None,
) -> Realised:
    """The small network of a plan.

    Args:
        subject: the dense network.
        problem: its moments.
        plan: the units that stay.
        settings: how weights are fitted.
        inputs: calibration inputs on the model's device, for ``calibration="sequential"``.
        sums: over all processes.
        share: tensors that lose nothing are the dense network's own, so that it is not in memory twice.
        progress: is told of the stages.

    Raises:
        SelfCheckError: the small network differs from the dense one with the same units masked, or its cost is not
            what the plan says.
    """
    progress = progress or Progress()
    fitted = 0
    if not settings.reconstruct:
        weights: dict[str, Tensor] = masked_weights(subject.model, plan)
    elif settings.is_sequential:
        fits = _fits(subject, problem, plan, settings, inputs, sums, progress)
        weights, fitted = fits.tensors, fits.samples
    else:
        weights = masked_weights(subject.model, plan)
        with progress.stage("fit weights", len(problem.readers)):
            for name in list(problem.readers):  # one at a time, each in the place of the other
                weights |= folded_weights(problem, plan.groups, settings.ridge, [name])
                progress.step()
        for name, rows in silent_rows(plan).items():  # of a projection that lost inputs, too
            weights[name] = weights[name].index_fill(0, rows.to(weights[name].device), 0.0)
    with progress.stage("cut and check"):
        masked = with_weights(subject.model, weights, share=share)
        small = cut(masked, plan, share=share)
        difference = self_check(masked, small, subject.example, plan)
        check_counts(subject.model, small, subject.example, plan)
        small = restacked(small)
    return Realised(small, difference, fitted)


def _fits(
    subject: Subject,
    problem: Problem,
    plan: PruningPlan,
    settings: PruneSettings,
    inputs: Sequence[Batch],
    sums: Sums,
    progress: Progress,
) -> Fits:
    readers = readers_of(subject.model, subject.graph, subject.groups, settings.conv_gram, by_block=True)
    if settings.refit_all:
        readers |= other_readers(subject.model, subject.graph, readers, settings.conv_gram)
    readers = limited(readers, settings.largest_token)
    kept = {name: kept_columns(reader, plan.groups) for name, reader in readers.items()}

    def start(name: str) -> Tensor:
        return folded_weights(problem, plan.groups, settings.ridge, [name])[name]

    with progress.stage("fit weights", len(readers)):
        silent, exports, mirrored = silent_rows(plan), subject.exports, plan.settings.get("mirrored") is True
        return fit_in_sequence(
            subject.model,
            inputs,
            readers,
            kept,
            start,
            settings.fit,
            sums,
            silent,
            progress,
            exports,
            mirrored=mirrored,
        )
