"""What does a plan look like on one screen?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from snp.plan.plan import GroupPlan, PruningPlan

__all__ = ["markdown_table", "plan_summary", "plan_table"]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table with columns as wide as their widest cell."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    cells.insert(1, ["-" * width for width in widths])
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]


def plan_summary(plan: PruningPlan) -> str:
    """One line: units, multiply-accumulates and parameters that stay."""
    kept = sum(len(decision.kept) for decision in plan.groups)
    units = sum(decision.group.num_units for decision in plan.groups)
    shares = [
        f"{count['pruned'] / count['dense']:.1%} of the {name}"
        for name, count in (("MACs", plan.macs), ("parameters", plan.params))
        if count.get("dense")
    ]
    return f"Plan({', '.join([f'{kept} of {units} units in {len(plan.groups)} groups', *shares])})"


def plan_table(plan: PruningPlan) -> str:
    """The groups of a plan with the units that stay, and what is left alone."""
    lines = [f"# {plan_summary(plan).removeprefix('Plan(').removesuffix(')')} stay", ""]
    lines += markdown_table(("group", "kind", "units", "kept", "share", "variance kept"), map(_row, plan.groups))
    if plan.frozen:
        lines += ["", "Left alone:", "", *markdown_table(("layer or group", "reason"), plan.frozen.items())]
    return "\n".join(lines) + "\n"


def _row(decision: GroupPlan) -> tuple[str, ...]:
    units, kept = decision.group.num_units, len(decision.kept)
    variance = "" if decision.kept_variance is None else f"{decision.kept_variance:.3f}"
    return (decision.group.name, decision.group.kind, str(units), str(kept), f"{kept / units:.0%}", variance)
