"""How does a plan become a smaller network?  Weights are fitted, units are cut, and the result is checked."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from snp.core.sums import ALONE, Sums
from snp.fit.at_outputs import Outputs, is_few
from snp.fit.calibration import moments_of
from snp.fit.candidates import Candidates, Tensors
from snp.fit.equal_units import with_equal_units_merged
from snp.fit.folds import Fold
from snp.fit.joint import fitted_jointly, folded_weights, kept_columns
from snp.fit.joint_statistics import with_statistics
from snp.fit.sequential import Fits, ToFit, fit_in_sequence
from snp.graph.batches import Batch
from snp.graph.borrowed import refuse_borrowed
from snp.graph.residual import is_inside
from snp.measure.outputs import beside_spread_of, objective_of
from snp.measure.readers import Reader, readers_to_fit
from snp.measure.samples import Samples
from snp.plan.plan import PruningPlan
from snp.plan.problem import Problem
from snp.plan.progress import Progress
from snp.plan.workers import Piece
from snp.settings import FitSettings
from snp.surgery.checks import self_check
from snp.surgery.counts import check_counts
from snp.surgery.stock_form import checked_stock_form
from snp.surgery.subject import Subject
from snp.surgery.surgery import cut, masked_weights, silent_rows, with_weights

__all__ = ["Realised", "fold_of", "in_sequence", "realise"]

_NO_SAMPLES = Samples()


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
    settings: FitSettings,
    samples: Samples = _NO_SAMPLES,
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
        samples: fitted on, for ``calibration="sequential"``.
        sums: over all processes.
        share: tensors that lose nothing are the dense network's own, so that it is not in memory twice.

    Raises:
        SelfCheckError: the small network is not the dense one with units masked, or its cost is not the plan's.
    """
    subject, problem = with_equal_units_merged(subject, problem, plan, settings)
    fits = _Fitting(subject, problem, plan, settings, sums, samples.is_mirrored).fits(samples.batches)
    with problem.progress.stage("cut and check"):
        # What is not cut from the masked network is not copied twice.
        masked = with_weights(subject.model, fits.tensors, share=True)
        small = cut(masked, plan, share=share)
        refuse_borrowed(small, subject.model, subject.example)
        difference = self_check(masked, small, subject.example, plan)
        check_counts(subject.model, small, subject.example, plan)
        small = checked_stock_form(small, subject.example, plan)
    return Realised(small, difference, fits.samples)


def in_sequence(
    subject: Subject, problem: Problem, plan: PruningPlan, settings: FitSettings, inputs: Sequence[Batch]
) -> Fits:
    """The fit in sequence of a plan's readers on some samples, as it comes: held to no other fit."""
    subject, problem = with_equal_units_merged(subject, problem, plan, settings)
    return _Fitting(subject, problem, plan, settings, ALONE, is_mirrored=False).in_sequence(problem, inputs)


def fold_of(subject: Subject, problem: Problem, settings: FitSettings, samples: Samples, piece: Piece) -> Fold:
    """What one fold of a plan's cross-validation at the outputs gives, see :class:`snp.fit.at_outputs.Outputs`.

    The piece is the number of the fold, and the plan as JSON; all else is as :func:`realise` gets it.
    """
    plan = PruningPlan.from_json(piece["plan"])
    subject, problem = with_equal_units_merged(subject, problem, plan, settings)
    fitting, inputs = _Fitting(subject, problem, plan, settings, ALONE, samples.is_mirrored), samples.batches
    fit = partial(fitting.candidates, masked_weights(subject.model, plan))
    return fitting.outputs(inputs).fold(inputs, fit, piece["fold"])


@dataclass(frozen=True, eq=False)
class _Fitting:
    """How the readers of a plan are fitted, on whatever samples."""

    subject: Subject
    problem: Problem
    plan: PruningPlan
    settings: FitSettings
    sums: Sums
    is_mirrored: bool

    def fits(self, inputs: Sequence[Batch]) -> Fits:
        """What takes over, as it was asked for."""
        model, plan, settings = self.subject.model, self.plan, self.settings
        if settings.is_sequential:
            return self._best(inputs)
        fitted = dict(masked_weights(model, plan))
        if settings.reconstruct:
            fitted = fitted_jointly(model, self.problem, plan, settings.ridge)
        if settings.batch_norm == "keep":
            return Fits(fitted)
        with self.problem.progress.stage("estimate statistics"):
            return Fits(with_statistics(self.subject, plan, fitted, inputs, settings, self.sums))

    def _best(self, inputs: Sequence[Batch]) -> Fits:
        """The fit in sequence, if nothing else serves the outputs better."""
        with self.problem.progress.stage("fit weights", len(self._readers)):
            found = self.in_sequence(self.problem, inputs)
            if self.settings.ridge is not None or not found.tensors:
                return found
            return replace(found, tensors=dict(self._nearest(found, inputs)))

    def _nearest(self, found: Fits, inputs: Sequence[Batch]) -> Tensors:
        """Where a layer had few samples chance decides too much of a fit; where it had many, nearly nothing."""
        outputs, deleted = self.outputs(inputs), masked_weights(self.subject.model, self.plan)
        if not (found.is_scarce and self._has_few(inputs) and self.sums.num_processes == 1):
            if outputs.serves(Candidates(deleted, (found.tensors,)), inputs):
                return found.tensors
            return outputs.best(Candidates(deleted, (found.tensors, self._jointly(self.problem))), inputs)
        candidates = Candidates(deleted, (found.tensors, self._jointly(self.problem)))
        at_once = self.problem.workers.num_processes
        return outputs.best_of_few(candidates, inputs, partial(self.candidates, deleted), self._dealt, at_once)

    def outputs(self, inputs: Sequence[Batch]) -> Outputs:
        """What fits are judged by."""
        model, known, visits = self.subject.model, self.problem.objective, self.subject.visits
        with visits.of(model):
            objective = beside_spread_of(known, model, inputs) if known else objective_of(model, inputs)
        return Outputs(model, objective, self.sums, 1 + self.is_mirrored, visits)

    def _dealt(self, numbers: Sequence[int], work: Callable[[int], Fold]) -> list[Fold]:
        pieces = [{"fold": number, "plan": self.plan.to_json()} for number in numbers]
        return self.problem.workers.of("folds", pieces, lambda piece: work(piece["fold"]))

    def candidates(self, deleted: Tensors, some: Sequence[Batch]) -> Candidates:
        """The fits, of some samples alone."""
        with tempfile.TemporaryDirectory() as folder:
            problem = replace(self.problem, moments=moments_of(self.subject, some, Path(folder)), progress=Progress())
            return Candidates(deleted, (self.in_sequence(problem, some).tensors, self._jointly(problem)))

    def _jointly(self, problem: Problem) -> Tensors:
        silent = replace(problem, progress=Progress())
        return fitted_jointly(self.subject.model, silent, self.plan, self.settings.ridge)

    def _has_few(self, inputs: Sequence[Batch]) -> bool:
        return is_few(self.sums.number(sum(batch.size for batch in inputs)) / (1 + self.is_mirrored))

    @property
    def _readers(self) -> dict[str, Reader]:
        """What is fitted: no layer of a block that goes."""
        found = readers_to_fit(self.subject.model, self.subject.graph, self.subject.groups, self.settings)
        return {name: reader for name, reader in found.items() if not is_inside(name, self.plan.removed_blocks)}

    def in_sequence(self, problem: Problem, inputs: Sequence[Batch]) -> Fits:
        """Of some samples and their moments."""
        subject, plan, settings, readers = self.subject, self.plan, self.settings, self._readers
        kept = {name: kept_columns(reader, plan.groups) for name, reader in readers.items()}

        def start(name: str) -> Tensor:
            return folded_weights(problem, plan.groups, settings.ridge, [name])[name]

        # Of few samples those held back say too little of a layer whose inputs were all fitted on them, too.
        objective, mirrored = None if self._has_few(inputs) else problem.objective, self.is_mirrored
        wanted = ToFit(readers, kept, start, silent_rows(plan), plan.removed_blocks, objective)
        return fit_in_sequence(subject, inputs, wanted, settings, self.sums, problem.progress, mirrored=mirrored)
