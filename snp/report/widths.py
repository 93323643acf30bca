"""How wide was every layer, how wide is it now, and which layers were left whole?  One figure, one CSV file."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from snp.report.canvas import CONTEXT, KEPT, TEXT, panels, save, shorten, write_csv
from snp.report.record import Record

__all__ = ["WHOLE", "Width", "draw_widths", "widths"]

BARS_PER_COLUMN = 30
MAX_BARS = 120
WHOLE = "#8795a1"


@dataclass(frozen=True)
class Width:
    """Units of a group, or of a layer that no cut could reach (`is_frozen`)."""

    name: str
    num_kept: int
    num_units: int
    is_frozen: bool = False


def widths(record: Record) -> list[Width]:
    """Groups and layers outside of them, in network order where the run noted its layers, else groups only."""
    found = {group["name"]: Width(group["name"], len(group["kept"]), group["num_units"]) for group in record.groups}
    owners: dict[str, str] = {}
    for group in record.groups:
        owners |= {member["tensor"]: group["name"] for member in group.get("producers", ())}
    rows: dict[str, Width] = {}
    for weight, layer in record.layers.items():
        name = owners.get(weight)
        if name is not None:
            rows.setdefault(name, found[name])
        else:
            # A weight's first size is its number of outputs.
            before, after = (int(shape.split("x")[0]) for shape in (layer.dense_shape, layer.pruned_shape))
            rows[weight] = Width(weight.removesuffix(".weight"), after, before, is_frozen=before == after)
    return [*rows.values(), *(width for name, width in found.items() if name not in rows)]


def draw_widths(record: Record, path: str | Path) -> Path:
    """Draw the units of every layer as horizontal bars: all of them in grey, those that stay in blue.

    Args:
        record: of the run.
        path: Where to write the PNG; `<stem>.csv` (layer, num_kept, num_units, is_frozen) beside it.

    Returns:
        The path of the PNG.

    Raises:
        ValueError: The plan has no groups.
    """
    if not record.groups:
        raise ValueError("The plan has no groups, so there is nothing to draw; was anything prunable?")
    rows = widths(record)
    table = [(row.name, row.num_kept, row.num_units, int(row.is_frozen)) for row in rows]
    write_csv(path, ("layer", "num_kept", "num_units", "is_frozen"), table)
    shown = rows[:MAX_BARS]
    num_columns = math.ceil(len(shown) / BARS_PER_COLUMN)
    per_column = math.ceil(len(shown) / num_columns)
    widest = max(row.num_units for row in shown)
    figure, axes = panels(1, num_columns, width=6.4 if num_columns == 1 else 4.6, height=1.3 + 0.24 * per_column)
    for column, axis in enumerate(axes):
        _draw_bars(axis, shown[column * per_column : (column + 1) * per_column], per_column, widest)
    note = f"; the first {MAX_BARS} of {len(rows)}" if len(rows) > MAX_BARS else ""
    return save(figure, path, f"Units of each layer: kept (blue), cut (light), left whole (grey){note}")


def _draw_bars(axis: Axes, rows: Sequence[Width], num_places: int, widest: int) -> None:
    places = range(len(rows))
    axis.barh(places, [row.num_units for row in rows], color=CONTEXT, height=0.72)
    colours = [WHOLE if row.is_frozen else KEPT for row in rows]
    axis.barh(places, [row.num_kept for row in rows], color=colours, height=0.72)
    for place, row in zip(places, rows, strict=True):
        text = f"{row.num_units}" if row.num_kept == row.num_units else f"{row.num_kept} of {row.num_units}"
        axis.text(row.num_units + 0.015 * widest, place, text, va="center", fontsize=7.5, color=TEXT)
    axis.set_yticks(places, [shorten(row.name, 30) for row in rows], fontsize=7.5)
    axis.tick_params(axis="y", length=0)
    # The same scale in every column: a last column with few bars keeps them thin.
    axis.set_ylim(num_places - 0.4, -0.6)
    axis.set_xlim(0, 1.25 * widest)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.set_xlabel("units", fontsize=8.5)
