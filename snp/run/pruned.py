"""How does a calibrated network become a small one, the same on every process?

What looks at samples one by one (sensitivity, trial cuts, the fit in sequence) is the first process's work, on all
calibration samples: so plan and weights do not depend on how many processes there are. The others wait without a
collective, which would run into its time limit, and get both.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from snp.core.gram import Moments
from snp.fit.calibration import Measured, Sensitivity, sensitivity_of
from snp.fit.preparation import prepare, settle
from snp.fit.realise import Realised, realise
from snp.graph.batches import Batch
from snp.graph.plain_experts import restacked
from snp.measure.exact import plain_arithmetic
from snp.measure.views import with_mirrored
from snp.models import Prepared
from snp.models.sources.weights import write_weights
from snp.plan.latency_table import LatencyTable
from snp.plan.plan import PruningPlan
from snp.plan.problem import Problem
from snp.pruning import decide
from snp.run.decided import write_decision
from snp.run.processes import copy_from_first, on_first, text_from_first
from snp.run.stages import Run
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
    with plain_arithmetic():
        found = on_first(lambda: _pruned(job, prepared, subject, moments, table))
    plan = PruningPlan.from_json(text_from_first(found.plan.to_json() if found else ""))
    job.streamed.forget()
    small = (found.result.model if found else restacked(cut(subject.model, plan))).to("cpu")
    copy_from_first(small)
    rank_zero_only(write_weights)(small, job.folder.path / "pruned.safetensors", {"plan": plan.mark})
    job.lightning.score("pruned", small)
    return small


def _pruned(
    job: Run, prepared: Prepared, subject: Subject, moments: Mapping[str, Moments], table: LatencyTable | None
) -> _Pruned:
    inputs, progress = _inputs_again(job, subject), job.lightning.progress()
    with progress.stage("measure sensitivity"):
        sensitivity = _sensitivity(job, subject, inputs)
    measured = Measured(subject, moments, sensitivity)
    with progress.stage("choose units", len(subject.groups)):
        subject, problem = prepare(measured, job.prune, inputs, table, progress, mirrored=_is_mirrored(job))
        plan = _decide(job, subject, problem, prepared)
        started = time.perf_counter()
        subject, problem = settle(measured, job.prune, plan, (subject, problem))
    result = realise(subject, problem, plan, job.prune, inputs, share=job.calibration.streamed)
    job.folder.record(
        {
            "time/prune_s": time.perf_counter() - started,
            "prune/self_check": result.check,
            "prune/fitted_samples": result.fitted_samples,
        }
    )
    return _Pruned(plan, result)


def _inputs_again(job: Run, subject: Subject) -> list[Batch]:
    """All calibration inputs, for what looks at more than moments, with the model on their device."""
    if not job.prune.needs_inputs:
        return []
    subject.to(job.lightning.device)
    inputs = job.lightning.calibration_inputs(job.calibration.samples, job.seed)
    return [with_mirrored(batch) for batch in inputs] if _is_mirrored(job) else inputs


def _is_mirrored(job: Run) -> bool:
    return bool(job.folder.metrics.get("calibration/mirrored"))


def _sensitivity(job: Run, subject: Subject, inputs: list[Batch]) -> Sensitivity:
    """How much the output moves with an error at each layer, where the choice of units asks for it."""
    if not job.prune.needs_sensitivity:
        return Sensitivity()
    started = time.perf_counter()
    found = sensitivity_of(subject, inputs, job.prune)
    job.folder.record({"time/sensitivity_s": time.perf_counter() - started})
    return found


def _decide(job: Run, subject: Subject, problem: Problem, prepared: Prepared) -> PruningPlan:
    """Which units stay; results of an earlier run in this folder go."""
    if job.finished.found("plan", job.mark("plan")):
        job.folder.keep_results()
        job.folder.write_facts(job.facts)
        return PruningPlan.load(job.folder.path / "plan.json")
    started = time.perf_counter()
    samples, repeats = (job.folder.metrics[f"calibration/{name}"] for name in ("samples", "repeats"))
    facts = {"samples": samples, "mirrored": _is_mirrored(job), "repeats": repeats}
    decision = decide(subject, problem, job.prune, **facts)
    job.folder.begin_results()
    plan = decision.plan.with_recipe(prepared.recipe)
    job.folder.write_data(job.config["data"], prepared.format, job.seed)
    write_decision(job.folder, plan, decision.selection, problem, subject.groups, job.prune, job.facts)
    job.folder.record(
        {
            "time/plan_s": time.perf_counter() - started,
            "prune/target_var": job.prune.target_var,
            "prune/threshold": plan.settings["level"],
        }
    )
    job.finished.note("plan", job.mark("plan"), ("variance.csv", "damage.csv", "layers.csv", "data.json"))
    return plan
