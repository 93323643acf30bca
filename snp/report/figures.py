"""What do the kept units and the variance they hold look like?

Each function draws one PNG and writes the numbers behind it to a CSV file of the same name beside it.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from snp.report.canvas import CONTEXT, CUT, KEPT, TEXT, evenly_spaced, panels, save, shorten, write_csv

BARS_PER_COLUMN = 30
MAX_BARS = 120
MAX_CURVES = 30


def kept_units(plan: Mapping[str, Any], path: str | Path) -> Path:
    """Draw the share of units each group keeps as horizontal bars, in network order.

    Args:
        plan: The content of `plan.json`.
        path: Where to write the PNG; `<stem>.csv` (group, num_kept, num_units, kept_fraction, kept_variance) beside it.

    Returns:
        The path of the PNG.

    Raises:
        ValueError: The plan has no groups.
    """
    rows: list[tuple[Any, ...]] = []
    for group in _require_groups(plan):
        num_kept, num_units = len(group["kept"]), group["num_units"]
        rows.append((group["name"], num_kept, num_units, num_kept / num_units, group.get("kept_variance")))
    write_csv(path, ("group", "num_kept", "num_units", "kept_fraction", "kept_variance"), rows)
    shown = rows[:MAX_BARS]
    num_columns = math.ceil(len(shown) / BARS_PER_COLUMN)
    per_column = math.ceil(len(shown) / num_columns)
    figure, axes = panels(1, num_columns, width=6.4 if num_columns == 1 else 5.0, height=1.3 + 0.24 * per_column)
    for column, axis in enumerate(axes):
        _draw_bars(axis, shown[column * per_column : (column + 1) * per_column], per_column)
    note = f" (first {MAX_BARS} of {len(rows)} groups, all in the CSV file)" if len(rows) > MAX_BARS else ""
    return save(figure, path, f"Units kept in each group{note}")


def _draw_bars(axis: Axes, rows: Sequence[tuple[Any, ...]], num_places: int) -> None:
    places = range(len(rows))
    axis.barh(places, [1.0] * len(rows), color=CONTEXT, height=0.72)
    axis.barh(places, [row[3] for row in rows], color=KEPT, height=0.72)
    for place, (_, num_kept, num_units, _, _) in zip(places, rows, strict=True):
        axis.text(1.02, place, f"{num_kept}/{num_units}", va="center", fontsize=7.5, color=TEXT)
    axis.set_yticks(places, [shorten(row[0], 30) for row in rows], fontsize=7.5)
    axis.tick_params(axis="y", length=0)
    # The same scale in every column: a last column with few groups keeps thin bars.
    axis.set_ylim(num_places - 0.4, -0.6)
    axis.set_xlim(0, 1.2)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    axis.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    axis.set_xlabel("kept units", fontsize=8.5)


def cumulative_variance(table: str | Path, plan: Mapping[str, Any], path: str | Path) -> Path | None:
    """Draw, per group, the variance held by the first k units in the plan's order, and where the cut fell.

    Args:
        table: CSV file with columns group, rank (1 to num_units), num_units, cumulative_variance (share in [0, 1]).
        plan: The content of `plan.json`: where the cut fell, and the level it was made at.
        path: Where to write the PNG; `<stem>.csv` (the table with the number of kept units) beside it.

    Returns:
        The path of the PNG, or None (and no files) when the table has no rows: not every planner orders by variance.

    Raises:
        ValueError: The table lacks a column.
    """
    curves = _read_curves(Path(table))
    if not curves:
        return None
    num_kept = {group["name"]: len(group["kept"]) for group in plan.get("groups", [])}
    rows = [
        (name, rank, len(curve), num_kept.get(name), share) for name, curve in curves.items() for rank, share in curve
    ]
    write_csv(path, ("group", "rank", "num_units", "num_kept", "cumulative_variance"), rows)
    names = list(curves)
    shown = evenly_spaced(names, MAX_CURVES)
    num_columns = min(len(shown), 4 if len(shown) <= 12 else 6)
    num_rows = math.ceil(len(shown) / num_columns)
    width, height = max(2.3, 6.4 / num_columns**1.5), 1.9 if num_rows > 1 else 3.0
    figure, axes = panels(num_rows, num_columns, width=width, height=height)
    settings = plan.get("settings") or {}
    level = settings.get("level") if settings.get("cut") == "variance" else None
    for name, axis in zip(shown, axes, strict=False):
        _draw_curve(axis, name, curves[name], num_kept.get(name), level)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    figure.supxlabel("number of units, most important first", fontsize=9)
    figure.supylabel("cumulative variance", fontsize=9)
    note = f"; {MAX_CURVES} of {len(names)} groups, all in the CSV file" if len(names) > MAX_CURVES else ""
    marks = "red: the cut" if level is None else "red: the cut, dashed: the level of all groups"
    return save(figure, path, f"Variance held by the first units ({marks}{note})")


def _read_curves(table: Path) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = {"group", "rank", "cumulative_variance"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{table} lacks the columns {', '.join(sorted(missing))}; rerun the plan stage.")
        for row in reader:
            curves.setdefault(row["group"], []).append((int(row["rank"]), float(row["cumulative_variance"])))
    return {name: sorted(curve) for name, curve in curves.items()}


def _draw_curve(
    axis: Axes, name: str, curve: Sequence[tuple[int, float]], num_kept: int | None, level: float | None
) -> None:
    ranks, shares = [0, *(rank for rank, _ in curve)], [0.0, *(share for _, share in curve)]
    if level is not None:
        axis.axhline(level, color="#9aa5b1", linewidth=0.9, linestyle=(0, (4, 3)))
    if num_kept is not None:
        axis.axvspan(num_kept, ranks[-1], color=CUT, alpha=0.10, linewidth=0)
        axis.axvline(num_kept, color=CUT, linewidth=1.2)
    axis.plot(ranks, shares, color=KEPT, linewidth=1.6)
    kept = "" if num_kept is None else f"\n{num_kept} of {ranks[-1]} kept"
    axis.set_title(shorten(name, 24) + kept, fontsize=7.5, loc="left")
    axis.set_xlim(0, ranks[-1])
    axis.set_ylim(0, 1.04)
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.yaxis.set_major_formatter(PercentFormatter(xmax=1))


def _require_groups(plan: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    groups = list(plan.get("groups") or [])
    if not groups:
        raise ValueError("The plan has no groups, so there is nothing to draw; was anything prunable?")
    return groups
