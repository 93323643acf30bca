"""How does every figure of the report look, and how do its numbers go beside it?"""

import csv
import io
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation

from snp.core.files import whole, write_whole

# Two hues that stay apart for colour-blind readers and on grey printers; greys carry what is only context.
KEPT, CUT, CONTEXT, TEXT = "#2a6f97", "#c8553d", "#d9dee3", "#333333"
# The same name in every file of the same figure, text as text, and no date: written twice, files are the same.
_STYLE: Any = {
    "svg.hashsalt": "snp",
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans", "sans-serif"],
    "pdf.fonttype": 42,
    "axes.unicode_minus": True,
}
_NO_DATE: dict[str, dict[str, Any]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
FORMATS = ("png", "svg", "pdf")
_DPI = 150
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def panels(num_rows: int, num_columns: int, *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure of equal panels; width and height are those of one panel in inches."""
    # Figure instead of pyplot: no global state and no display.
    figure = Figure(figsize=(width * num_columns, height * num_rows + 0.4), layout="constrained")
    axes = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
    for axis in axes:
        dress(axis)
    return figure, axes


def dress(axis: Axes) -> None:
    """Quiet spines and small ticks."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=7.5, colors=TEXT)


class Powers(LogFormatterSciNotation):
    """Ticks of a logarithmic axis as plain text, 10⁻²: setting them as formulas takes a third of the drawing."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The text at a place of the axis; empty where the axis is full already."""
        parts = re.search(r"(?:(\d+)\\times)?10\^\{(-?\d+)\}", super().__call__(x, pos))
        if parts is None:
            return ""
        return f"{parts[1]}\N{MULTIPLICATION SIGN}" * bool(parts[1]) + "10" + parts[2].translate(_RAISED)


def save(figure: Figure, path: str | Path, title: str) -> Path:
    """Write a figure as PNG under its title, with its folder, and as SVG and PDF beside it; return the PNG's path."""
    figure.suptitle(title, fontsize=10.5, x=0.01, ha="left", color=TEXT)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every table of a font that goes into a PDF
    with mpl.rc_context(_STYLE):
        # Laid out once, not for every file, and at the resolution of the PNG: text is a little wider at another one.
        # The ticks of the first pass are not yet those that stay.
        figure.set_dpi(_DPI)
        for _ in range(2):
            figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for kind in FORMATS:
            # Made in memory: a disk without room ends PDF inside matplotlib, in an error of its own.
            drawn = io.BytesIO()
            figure.savefig(drawn, format=kind, dpi=_DPI, metadata=_NO_DATE[kind])
            with whole(path.with_suffix(f".{kind}")) as partial:
                partial.write_bytes(drawn.getvalue())
    return path


def drawing(draw: Callable[[Axes], object], *, width: float = 3.2, height: float = 2.2) -> str:
    """Return one panel as an SVG text, inches wide and high, narrow enough for a phone."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axis = figure.subplots()
    dress(axis)
    draw(axis)
    text = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(text, format="svg", metadata=_NO_DATE["svg"])
    return text.getvalue()


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write the numbers of a figure to the CSV file of the same name."""
    table = Path(path).with_suffix(".csv")
    table.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    write_whole(table, text.getvalue())


def evenly_spaced(names: Sequence[str], count: int) -> list[str]:
    """Return `count` of the names, the first and the last among them, or all where there are no more."""
    if len(names) <= count:
        return list(names)
    return [names[round(index * (len(names) - 1) / (count - 1))] for index in range(count)]


def briefly(line: str, length: int) -> str:
    """As many of a line's settings as fit, and how many more there are."""
    first, *others = line.split(", ")
    shown = first if len(first) <= length else first[: length - 1] + "…"
    for number, setting in enumerate(others):
        if len(shown) + len(setting) + 2 > length:
            return f"{shown} and {len(others) - number} more"
        shown += f", {setting}"
    return shown


def legend_names(lines: Sequence[str], length: int = 60) -> list[str]:
    """Names that are no wider than a figure; where that leaves the same of several lines, with their numbers."""
    shown = [briefly(line, length) for line in lines]
    return [f"{name} ({place + 1})" if shown.count(name) > 1 else name for place, name in enumerate(shown)]


def shorten(name: str, length: int) -> str:
    """Cut the front of a long module path: its end tells neighbours apart."""
    return name if len(name) <= length else "…" + name[-(length - 1) :]
