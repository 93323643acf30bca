"""What does a plan look like on one screen?"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from snp.plan.group_plan import GroupPlan

__all__ = ["markdown_table", "plan_summary", "plan_table", "time_sentence", "unreached_sentence"]

_MOST_NAMES = 3  # of layers, in a sentence


def markdown_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    words: Collection[int] | None = None,
    *,
    is_padded: bool = True,
) -> list[str]:
    """Lines of a Markdown table.

    Args:
        header: a cell per column.
        rows: the same.
        words: columns that stand on the left; all others hold numbers and stand on the right. None: left to the reader.
        is_padded: columns are as wide as their widest cell, which reads well on a terminal.
    """
    # A pipe inside a cell would open a new column.
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (header, *rows)]
    columns = range(len(header))
    is_number = [words is not None and column not in words for column in columns]
    widths = [max(3, *(len(row[column]) for row in cells)) if is_padded else 3 for column in columns]
    marks = [
        "-" * width if words is None else "-" * (width - 1) + ":" if number else ":" + "-" * (width - 1)
        for width, number in zip(widths, is_number, strict=True)
    ]
    lines = []
    for row in (cells[0], marks, *cells[1:]):
        if is_padded:
            parts = zip(row, widths, is_number, strict=True)
            row = [cell.rjust(width) if number else cell.ljust(width) for cell, width, number in parts]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def plan_summary(
    groups: Sequence[GroupPlan], macs: Mapping[str, int], params: Mapping[str, int], removed: Sequence[str] = ()
) -> str:
    """One line: units, multiply-accumulates and parameters that stay, and how many blocks do not."""
    kept = sum(len(decision.kept) for decision in groups)
    units = sum(decision.group.num_units for decision in groups)
    shares = [
        f"{count['pruned'] / count['dense']:.1%} of the {name}"
        for name, count in (("MACs", macs), ("parameters", params))
        if count.get("dense")
    ]
    where = f"{len(groups)} groups" + (f" beside {len(removed)} removed blocks" if removed else "")
    return f"{', '.join([f'{kept} of {units} units in {where}', *shares])}"


def plan_table(
    summary: str, groups: Iterable[GroupPlan], frozen: Mapping[str, str], removed: Sequence[str] = ()
) -> str:
    """The groups of a plan with the units that stay, blocks that go as a whole, and what is left alone."""
    lines = [f"# {summary} stay", ""]
    if removed:
        lines += [f"Removed as whole blocks: {', '.join(removed)}.", ""]
    lines += markdown_table(("group", "kind", "units", "kept", "share", "variance kept"), map(_row, groups))
    if frozen:
        lines += ["", "Left alone:", "", *markdown_table(("layer or group", "reason"), frozen.items())]
    return "\n".join(lines) + "\n"


def time_sentence(latency: Mapping[str, float | None]) -> str:
    """What a pass takes of the dense network's, measured in turns, and how; empty where it was not measured.

    Args:
        latency: of a plan, or of a run's numbers.
    """
    names = ("measured_share", "measured_share_low", "measured_share_high", "passes", "batch", "threads")
    found = {name: value for name in names if (value := latency.get(name)) is not None}
    if len(found) < len(names):
        return ""
    share, low, high, passes, batch, threads = (found[name] for name in names)
    way = ""
    if latency.get("graphs"):
        idle = latency.get("idle_share") or 0.0
        way = f", replayed as CUDA graphs, because the GPU would wait for launches for {idle:.0%} of a pass"
    line = (
        f"Measured in turns ({passes:.0f} passes each, batch {batch:.0f}, CPU threads: {threads:.0f}{way}), the pruned "
        f"network takes {100 * share:.1f} % of the dense one's time (quartiles {100 * low:.1f} to {100 * high:.1f} %)"
    )
    predicted = latency.get("predicted_share")
    return line + (f"; the plan predicted {100 * predicted:.1f} %." if predicted is not None else ".")


def _row(decision: GroupPlan) -> tuple[str, ...]:
    units, kept = decision.group.num_units, len(decision.kept)
    variance = "" if decision.kept_variance is None else f"{decision.kept_variance:.3f}"
    return (decision.group.name, decision.group.kind, str(units), str(kept), f"{kept / units:.0%}", variance)


def unreached_sentence(layers: Sequence[str]) -> str:
    """What it means for the small network that these layers were not reached; empty without any."""
    if not layers:
        return ""
    names = ", ".join(layers[:_MOST_NAMES])
    names += f" and {len(layers) - _MOST_NAMES} more layers" if len(layers) > _MOST_NAMES else ""
    return (
        f"Not reached: calibration's inputs do not reach {names}, so calls that do may not fit the small network; give "
        "batches that reach them."
    )
