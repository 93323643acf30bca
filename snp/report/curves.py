"""Which curve decided how many units of a group stay?  Predicted damage with the output cut, else lost variance.

Both fall with the number of kept units over many powers of ten, so they stand on a logarithmic axis.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from snp.report.canvas import CUT, KEPT, Powers, drawing, evenly_spaced, panels, save, shorten, write_csv
from snp.report.record import Record

__all__ = ["Decision", "curve_panels", "decision_of", "draw_curves"]

MAX_CURVES = 30
_DECADES = 5  # below the highest point, more where a group's cut or its highest point lies lower
_MOST_DECADES = 12  # what is smaller is rounding
LEVEL = "#7b8794"


@dataclass(frozen=True)
class Decision:
    """The curves behind a cut.

    Attributes:
        name: "damage" or "lost_variance", as files call them.
        curves: group -> (kept units, value), the value falling.
        label: of the axis.
        title: of the figure.
        cuts: group -> units that the plan keeps.
        level: the value at which every group was cut, where one level is the rule; else None.
    """

    name: str
    curves: dict[str, list[tuple[int, float]]]
    label: str
    title: str
    cuts: dict[str, int]
    level: float | None = None

    @property
    def limits(self) -> tuple[float, float]:
        """One axis for all groups, so that they compare; every group's highest point and its cut are on it."""
        tops = [top for curve in self.curves.values() if (top := max((value for _, value in curve), default=0.0)) > 0]
        highest = max(tops, default=1.0)
        at_cuts = [
            value for name, curve in self.curves.items() for count, value in curve if count == self.cuts.get(name)
        ]
        lowest = min([highest * 10**-_DECADES, *tops, *(value for value in at_cuts if value > 0)])
        return max(lowest / 3, highest * 10**-_MOST_DECADES), highest * 2


def decision_of(record: Record) -> Decision | None:
    """The curves that decided: damage where the cut looked at it, else the variance that is lost; None without any."""
    cuts = {group["name"]: len(group["kept"]) for group in record.groups}
    if record.damage and record.settings.get("cut", "output") == "output":
        title = "Predicted error at the output by units kept; the red line is the cut"
        return Decision("damage", record.damage, "predicted error (nats per sample)", title, cuts)
    if not record.variance:
        return None
    lost = {
        name: [(0, 1.0), *((count, max(0.0, 1 - share)) for count, share in curve)]
        for name, curve in record.variance.items()
    }
    title, level = "Variance lost by units kept; the red line is the cut", record.settings.get("level")
    if record.settings.get("cut") != "variance" or level is None:
        return Decision("lost_variance", lost, "variance lost (share)", title, cuts)
    title += "; dashed, the level of all groups"
    return Decision("lost_variance", lost, "variance lost (share)", title, cuts, 1 - level)


def draw_curves(decision: Decision, path: str | Path) -> Path:
    """Draw one panel per group, all on the same axis, and where the cut fell.

    Args:
        decision: The curves, and the cuts.
        path: Where to write the PNG; `<stem>.csv` (group, num_kept, num_units, kept_in_plan, value) beside it.

    Returns:
        The path of the PNG.
    """
    rows = [
        (name, count, curve[-1][0], decision.cuts.get(name), value)
        for name, curve in decision.curves.items()
        for count, value in curve
    ]
    write_csv(path, ("group", "num_kept", "num_units", "kept_in_plan", decision.name), rows)
    names = list(decision.curves)
    shown = evenly_spaced(names, MAX_CURVES)
    num_columns = min(len(shown), 4 if len(shown) <= 12 else 6)
    num_rows = math.ceil(len(shown) / num_columns)
    width, height = max(2.3, 6.4 / num_columns**1.5), 1.9 if num_rows > 1 else 3.0
    figure, axes = panels(num_rows, num_columns, width=width, height=height)
    for name, axis in zip(shown, axes, strict=False):
        _panel(decision, name)(axis)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    figure.supxlabel("units kept, most important first", fontsize=9)
    figure.supylabel(decision.label, fontsize=9)
    note = f" ({MAX_CURVES} of {len(names)} groups, all in the CSV file)" if len(names) > MAX_CURVES else ""
    return save(figure, path, decision.title + note)


def curve_panels(decision: Decision) -> tuple[str, ...]:
    """The same panels as drawings of their own."""
    shown = evenly_spaced(list(decision.curves), MAX_CURVES)
    return tuple(drawing(_panel(decision, name), width=2.7, height=1.9) for name in shown)


def _panel(decision: Decision, name: str) -> Callable[[Axes], None]:
    return lambda axis: _draw_curve(axis, name, decision)


def _draw_curve(axis: Axes, name: str, decision: Decision) -> None:
    (low, high), curve, num_kept = decision.limits, decision.curves[name], decision.cuts.get(name)
    # What falls below the axis leaves it steeply instead of lying on its edge.
    counts, values = [count for count, _ in curve], [max(value, low / 1e3) for _, value in curve]
    if decision.level is not None:
        axis.axhline(max(decision.level, low), color=LEVEL, linewidth=0.9, linestyle=(0, (4, 3)))
    if num_kept is not None:
        axis.axvspan(0, num_kept, color=KEPT, alpha=0.08, linewidth=0)
        axis.axvline(num_kept, color=CUT, linewidth=1.2)
    axis.plot(counts, values, color=KEPT, linewidth=1.6)
    if max(value for _, value in curve) <= low:
        axis.text(0.5, 0.5, "no error" if decision.name == "damage" else "nothing lost", fontsize=7.5, ha="center",
                  transform=axis.transAxes)  # fmt: skip
    text = "" if num_kept is None else f"\n{num_kept} of {counts[-1]} kept"
    axis.set_title(shorten(name, 26) + text, fontsize=7.5, loc="left")
    axis.set_xlim(0, counts[-1])
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(Powers())
    axis.yaxis.set_minor_formatter(Powers())
    axis.set_ylim(low, high)
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.yaxis.set_major_locator(LogLocator(numticks=4))
    axis.yaxis.set_minor_locator(NullLocator())
