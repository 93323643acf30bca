"""How does a calibrated network become a small one, the same on every process?

What looks at samples one by one (sensitivity, trial cuts, the fit in sequence) is the first process's work, on all
calibration samples: so plan and weights do not depend on how many processes there are. The others wait without a
collective, which would run into its time limit, and get both; meanwhile they do what can be asked of them
(:mod:`snp.run.shared`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn

from snp.core.gram import Moments
from snp.fit.calibration import Measured, objective_asked, sensitivity_of
from snp.fit.preparation import is_known_everywhere, prepare, settle
from snp.fit.realise import Realised, fold_of, realise
from snp.fit.stream_bases import in_stream_bases
from snp.fit.tuning import left_to_fit
from snp.measure.exact import plain_arithmetic
from snp.measure.objective import Objective
from snp.measure.samples import Samples
from snp.models import Prepared
from snp.models.sources.weights import write_weights
from snp.plan.latency_table import LatencyTable
from snp.plan.pieces import judged, tried, tried_without
from snp.plan.plan import PruningPlan
from snp.plan.problem import Problem
from snp.plan.workers import Piece
from snp.pruning import decide
from snp.run.decided import write_decision
from snp.run.folder import log
from snp.run.processes import copy_from_first, on_first, text_from_first
from snp.run.shared import Helper, SharedOut
from snp.run.speed import rounded
from snp.run.stages import Run
from snp.settings import PruneSettings
from snp.surgery.stock_form import in_stock_form
from snp.surgery.subject import Subject
from snp.surgery.surgery import cut

__all__ = ["small_network"]


@dataclass(frozen=True, eq=False)
class _Pruned:
    """What the first process made."""

    plan: PruningPlan
    result: Realised


def small_network(
    job: Run, prepared: Prepared, subject: Subject, moments: Mapping[str, Moments], table: LatencyTable | None
) -> nn.Module:
    """Plan, fit and surgery with the self-check at their end, and the score of the small network.

    Args:
        job: the run.
        prepared: how the dense network was made.
        subject: the dense network.
        moments: of all calibration samples.
        table: layer times, for a latency budget.

    Returns:
        The small network on the CPU, equal on all processes.
    """
    shared = SharedOut()
    helper = Helper(shared, partial(_helping, job, subject, moments))
    with plain_arithmetic():
        found = on_first(partial(_pruned, job, prepared, subject, moments, table, shared), helper)
    plan = PruningPlan.from_json(text_from_first(found.plan.to_json() if found else ""))
    job.streamed.forget()
    small = (found.result.model if found else in_stock_form(cut(subject.model, plan), plan)).to("cpu")
    copy_from_first(small)
    rank_zero_only(write_weights)(small, job.folder.path / "pruned.safetensors", {"plan": plan.mark})
    job.lightning.score("pruned", small)
    return small


def _pruned(
    job: Run,
    prepared: Prepared,
    subject: Subject,
    moments: Mapping[str, Moments],
    table: LatencyTable | None,
    shared: SharedOut,
) -> _Pruned:
    settings, found = rounded(job, subject)
    measured, progress = _measured(job, subject, moments), job.lightning.progress()
    with progress.stage("choose units", len(subject.groups)):
        measured = in_stream_bases(measured, settings)
        subject = measured.subject
        subject, problem = prepare(measured, settings, table, progress, shared)
        plan = _decide(job, subject, problem, settings, prepared, measured.samples.facts | found)
        started = time.perf_counter()
        subject, problem = settle(measured, plan, (subject, problem))
    fitted_on = left_to_fit(subject.model, measured.samples, settings)
    result = realise(subject, problem, plan, settings.fit, fitted_on, share=job.calibration.streamed)
    job.folder.record(
        {
            "time/prune_s": time.perf_counter() - started,
            "prune/self_check": result.check,
            "prune/fitted_samples": result.fitted_samples,
        }
    )
    if shared.counts:
        log(f"shared out over {shared.num_processes} processes: {shared}")
    return _Pruned(plan, result)


def _helping(job: Run, subject: Subject, moments: Mapping[str, Moments]) -> Callable[[str, Piece], Any]:
    """What does a piece of the first process's work here, where this process has the very same network."""
    settings, known = job.prune, dict[str, Callable[[Piece], Any]]()
    if settings.needs_inputs and is_known_everywhere(subject):
        measured = _measured(job, subject, moments, alone=False)
        subject, problem = prepare(measured, settings)
        samples = left_to_fit(subject.model, measured.samples, settings)
        fold = partial(fold_of, subject, problem, settings.fit, samples)
        known = {
            "trial cuts": partial(tried, problem),
            "blocks": partial(tried_without, problem),
            "allocations": partial(judged, problem),
            "folds": fold,
        }
    return lambda kind, piece: known[kind](piece)


def _measured(job: Run, subject: Subject, moments: Mapping[str, Moments], *, alone: bool = True) -> Measured:
    """What all calibration samples say of the network, which is on their device if they are looked at again.

    Sensitivities are the first process's ``alone``.
    """
    metrics = job.folder.metrics
    num_samples, num_repeats = (metrics[f"calibration/{name}"] for name in ("samples", "repeats"))
    mirrored = bool(metrics.get("calibration/mirrored"))
    if not job.prune.needs_inputs:
        return Measured(subject, moments, Samples((), mirrored, num_samples, num_repeats))
    subject.placed(job.lightning.device)
    inputs = [
        batch.beside(subject.model) for batch in job.lightning.calibration_inputs(job.calibration.samples, job.seed)
    ]
    samples = replace(Samples.of(inputs, num_repeats, mirrored=mirrored), num_samples=num_samples)
    with subject.visits.of(subject.model):
        objective = objective_asked(subject, samples.batches, job.prune)
    fisher = _sensitivity(job, subject, samples, objective) if alone and job.prune.needs_sensitivity else {}
    return Measured(subject, moments, samples, objective, fisher)


def _sensitivity(job: Run, subject: Subject, samples: Samples, objective: Objective | None) -> Mapping[str, Tensor]:
    """How much the output moves with an error at each layer."""
    started = time.perf_counter()
    with job.lightning.progress().stage("measure sensitivity"):
        found = sensitivity_of(subject, samples.batches, objective, job.prune.seed)
    job.folder.record({"time/sensitivity_s": time.perf_counter() - started})
    return found


def _decide(
    job: Run,
    subject: Subject,
    problem: Problem,
    settings: PruneSettings,
    prepared: Prepared,
    found: Mapping[str, Any],
) -> PruningPlan:
    """Which units stay; results of an earlier run in this folder go."""
    if job.finished.found("plan", job.mark("plan")):
        job.folder.keep_results()
        job.folder.write_facts(job.facts)
        return PruningPlan.load(job.folder.path / "plan.json")
    started = time.perf_counter()
    decision = decide(subject, problem, settings, **found)
    job.folder.begin_results()
    plan = decision.plan.with_recipe(prepared.recipe)
    job.folder.write_data(job.config["data"], prepared.format, job.seed)
    write_decision(job.folder, plan, decision.selection, decision.problem, job.prune, job.facts)
    job.folder.record(
        {
            "time/plan_s": time.perf_counter() - started,
            "prune/target_var": job.prune.target_var,
            "prune/threshold": plan.settings["level"],
        }
    )
    files = ("plan.json", "variance.csv", "damage.csv", "layers.csv", "data.json")
    job.finished.note("plan", job.mark("plan"), files)
    return plan
