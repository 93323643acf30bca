"""In what do runs differ: settings, numbers, and the units that two plans keep?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from snp.report.document import Cell, Table
from snp.report.record import Record
from snp.report.runs import COSTS, Runs
from snp.report.settings import FOUND
from snp.report.speed import is_noisy
from snp.report.stages import STAGE_WORDS, STAGES, number

__all__ = ["TITLES", "plan_table", "runs_table", "settings_table", "spread_table"]

TITLES = {"acc1_percent": "top-1 %", "perplexity": "perplexity"}


def runs_table(runs: Runs) -> Table:
    """One row per run: what it was, and every number that runs are compared by."""
    reached = {stage for stage in STAGES for record in runs.records if f"{stage}/{runs.score}" in record.metrics}
    stages = [stage for stage in STAGES if stage != "tuned" or stage in reached]  # few runs ask for it
    titles = ("fine-tuned" if stage == "finetuned" else stage for stage in stages)
    header = ("run", "rule", "target", "seed", *titles, "MACs", "parameters", "time")
    return Table(header, [_run_row(runs, record, stages) for record in runs.records], sorts=True, words=(0, 1, 2))


def _run_row(runs: Runs, record: Record, stages: Sequence[str]) -> list[Cell | str]:
    target = "-" if record.target is None else "{} {:g}".format(*record.target)
    row: list[Cell | str] = [
        runs.names[record.folder],
        runs.rule_of(record) or "-",
        target,
        runs.seeds[record.folder],
    ]
    for stage in stages:
        value = number(record.metrics, f"{stage}/{runs.score}")
        row.append("-" if value is None else Cell(f"{value:.2f}", value))
    return row + [_share(record, cost) for cost in COSTS]


def _share(record: Record, cost: str) -> Cell | str:
    if cost == "latency":
        if is_noisy(record.metrics):
            return "noisy"
        share = number(record.metrics, "latency/measured_share")
    else:
        small, dense = (number(record.metrics, f"{stage}/{cost}") for stage in ("pruned", "dense"))
        share = small / dense if small is not None and dense else None
    return "-" if share is None else Cell(f"{100 * share:.1f} %", share, min(1.0, share))


def spread_table(runs: Runs, stage: str) -> Table | None:
    """Lines down, targets across: mean, smallest and largest over the seeds."""
    targets = sorted(dict.fromkeys(cell.target for cell in runs.cells))
    found = {(cell.line, cell.target): cell.score(stage) for cell in runs.cells}
    if not any(found.values()):
        return None
    rows: list[list[Cell | str]] = []
    for line in runs.lines:
        row: list[Cell | str] = [line]
        for target in targets:
            spread = found.get((line, target))
            row.append("-" if spread is None else Cell(str(spread), spread.mean))
        rows.append(row)
    return Table((f"{TITLES[runs.score]} {STAGE_WORDS[stage]}", *targets), rows, sorts=True)


def settings_table(runs: Runs) -> Table | None:
    """Settings in which the runs differ; None where they differ in nothing."""
    rows = [[f"`{name}`", *values] for name, values in runs.varying.items() if name not in FOUND]
    header = ("setting", *(runs.names[record.folder] for record in runs.records))
    return Table(header, rows, folded="Settings in which the runs differ") if rows else None


def plan_table(first: Record, second: Record) -> Table | None:
    """Group by group, the units that two plans keep, and how many of them are the same; None without common groups."""
    others = {group["name"]: group for group in second.groups}
    rows = [_plan_row(group, others[group["name"]]) for group in first.groups if group["name"] in others]
    header = ("group", "units", "first", "second", "both", "only first", "only second", "overlap")
    return Table(header, rows, sorts=True) if rows else None


def _plan_row(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Cell | str]:
    ones, others = set(first["kept"]), set(second["kept"])
    both, share = ones & others, len(ones & others) / max(1, len(ones | others))
    counts = (len(ones), len(others), len(both), len(ones - others), len(others - ones))
    return [
        f"`{first['name']}`",
        str(first["num_units"]),
        *map(str, counts),
        Cell(f"{100 * share:.0f} %", share, share),
    ]
