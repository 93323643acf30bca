"""How fast are a run's networks: layer by layer before the plan, and dense beside pruned after it?"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from snp.data.text import TextData
from snp.plan.latency_table import LatencyTable
from snp.plan.plan import PruningPlan
from snp.run.folder import is_first_process, log
from snp.run.processes import from_first
from snp.run.stages import Run
from snp.settings import PruneSettings
from snp.speed.device_rounding import place_of
from snp.speed.layer_times import measure_table, measured_share
from snp.speed.multiples import with_measured_rounding
from snp.speed.passes import Conditions
from snp.surgery.subject import Subject

__all__ = ["compare_speed", "latency_table", "rounded"]

_PRECISIONS = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


def rounded(job: Run, subject: Subject) -> tuple[PruneSettings, dict[str, Any]]:
    """The settings of the prune with numbers for ``round_to=auto``, asked of the trainer's device and precision."""
    if job.prune.round_to != "auto":
        return job.prune, {}
    place = place_of(subject, _conditions(job), job.lightning.device)
    started = time.perf_counter()
    settings, found = with_measured_rounding(job.prune, subject, subject.example, place)
    job.folder.record({"time/multiples_s": time.perf_counter() - started})
    multiple = int(settings.round_to)
    wide = (
        f"in groups of {settings.round_from or 16 * multiple} units or more"
        if multiple > 1
        else "(rounding does not pay)"
    )
    log(f"round_to=auto: {multiple} {wide}, by times of layers on {place.name}")
    return settings, found


def latency_table(job: Run, subject: Subject) -> LatencyTable | None:
    """Layer times for a latency budget, from an earlier run of the very same network or measured now; else None."""
    if not job.prune.target.is_timed:
        return None
    started = time.perf_counter()
    table = LatencyTable.from_json(from_first(lambda: _table(job, subject).to_json()))
    job.folder.record({"time/latency_s": time.perf_counter() - started})
    return table


def _conditions(job: Run) -> Conditions:
    """How passes are timed, in the precision of the trainer."""
    autocast = _PRECISIONS.get(str(job.lightning.trainer().precision))
    return Conditions(job.prune.latency_batch, job.prune.latency_threads, autocast)


def _table(job: Run, subject: Subject) -> LatencyTable:
    conditions = _conditions(job)

    def measure() -> LatencyTable:
        log(f"timing layers: batch {conditions.batch}, CPU threads {conditions.threads}")
        subject.to(job.lightning.device)
        example = job.lightning.example(conditions.batch).beside(subject.model)
        return measure_table(subject, example, conditions)

    return job.cache.latency(subject, conditions, measure, job.lightning.device)


def compare_speed(job: Run, subject: Subject, small: nn.Module) -> None:
    """Passes of the dense and the pruned network in turns, recorded as ``latency/...``, beside what was predicted."""
    if is_first_process():
        conditions = _conditions(job)
        dense = subject.to(job.lightning.device).model
        example = job.lightning.example(conditions.batch).beside(dense)
        path = job.folder.path / "plan.json"
        plan = PruningPlan.load(path)
        if "graphs" in plan.latency:
            conditions = replace(conditions, graphs=bool(plan.latency["graphs"]))
        measured = measured_share(dense, small.to(subject.device).eval(), example, conditions)
        if plan.latency:
            plan = plan.with_latency(measured)
            plan.save(path)
            job.finished.renew("plan")
        facts = {"batch": conditions.batch, "threads": conditions.threads} | plan.latency | measured
        if isinstance(job.data, TextData) and job.data.format is not None:
            facts["tokens"] = job.data.format.context
        job.folder.record({f"latency/{name}": value for name, value in facts.items()})
        low, high = (measured[f"measured_share_{end}"] for end in ("low", "high"))
        log(
            f"in turns, the pruned network takes {measured['measured_share']:.0%} of the dense one's time (half of the "
            f"passes between {low:.0%} and {high:.0%})"
        )
    job.lightning.trainer().strategy.barrier()
    small.to("cpu")
