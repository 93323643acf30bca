"""What did the stages of a run score, and at what cost?  One figure, with its numbers in a CSV file beside it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from snp.report.canvas import CONTEXT, CUT, KEPT, drawing, panels, save, write_csv
from snp.report.intervals import wilson
from snp.report.record import Record
from snp.report.stages import (
    SCORE_WORDS,
    SMALL,
    SMALL_WORDS,
    format_measure,
    format_tick,
    number,
    read_stages,
    score_of,
)

__all__ = ["STAGE_COLOURS", "Cost", "cost_of", "draw_tradeoff", "tradeoff_panel"]

STAGE_COLOURS = {"dense": "#6c757d", "pruned": CUT, "tuned": "#8a6fb0", "finetuned": KEPT}
# Small networks share their cost: labels go below, beside and above their points.
LABEL_SIDES = {"dense": 0, "pruned": -1, "tuned": 0, "finetuned": 1}
UNITS = {"acc1_percent": " %", "perplexity": ""}
_APART = 0.03  # of the largest cost, between the places of small networks and their cost
AXES = {"acc1_percent": "top-1 accuracy (%)", "perplexity": "perplexity (lower is better)"}


@dataclass(frozen=True)
class Cost:
    """What was to be saved: the unit of the target, or multiply-accumulates where the target is none.

    Attributes:
        name: of the measure.
        label: of the axis.
        of_stage: stage -> cost.
    """

    name: str
    label: str
    of_stage: Mapping[str, float]


@dataclass(frozen=True)
class Point:
    """A stage with its cost, score, and the 95 % interval of the score where the number of test samples is known."""

    stage: str
    cost: float
    score: float
    interval: tuple[float, float] | None


def cost_of(record: Record) -> Cost:
    """The cost of every stage, in the unit that was asked for."""
    metrics, target = record.metrics, (record.target or ("macs", 0.0))[0]
    names = ("dense", "pruned")
    if target == "latency":
        found = {name: number(metrics, f"latency/{name}_ms") for name in names}
        return _cost("latency", "time of a pass, in turns (ms)", found)
    if target == "params":
        asked = {name: number(metrics, f"prune/{name}_cost") for name in names}
        whole = {name: number(metrics, f"{name}/params") for name in names}
        if None not in asked.values() and asked != whole:
            return _cost("params_outside_embeddings", "parameters outside embeddings", asked)
        return _cost("params", "parameters", whole)
    return _cost("macs", "MACs per sample", {name: number(metrics, f"{name}/macs") for name in names})


def _cost(name: str, label: str, found: Mapping[str, float | None]) -> Cost:
    known = {stage: value for stage, value in found.items() if value is not None}
    # Training changes no shapes.
    return Cost(name, label, known | (dict.fromkeys(SMALL, known["pruned"]) if "pruned" in known else {}))


def draw_tradeoff(record: Record, path: str | Path) -> Path | None:
    """Draw one labelled point per stage: accuracy with its interval, or perplexity, against what was to be saved.

    Args:
        record: Of the run.
        path: Where to write the PNG; `<stem>.csv` (stage, cost, score, its interval) beside it.

    Returns:
        The path of the PNG, or None (and no files) when no stage has both numbers.
    """
    score, cost, points = score_of(record.metrics), cost_of(record), _points(record)
    if not points:
        return None
    rows = [(point.stage, point.cost, point.score, *(point.interval or ("", ""))) for point in points]
    write_csv(path, ("stage", cost.name, score, f"{score}_low", f"{score}_high"), rows)
    figure, (axis,) = panels(1, 1, width=6.0, height=4.0)
    _draw_stages(axis, points, score, cost)
    return save(figure, path, f"{SCORE_WORDS[score].capitalize()} against cost{_note(points)}")


def tradeoff_panel(record: Record) -> str | None:
    """The same as a drawing of its own."""
    points = _points(record)
    if not points:
        return None
    return drawing(_stages(points, score_of(record.metrics), cost_of(record)), width=4.6, height=3.2)


def _stages(points: Sequence[Point], score: str, cost: Cost) -> Callable[[Axes], None]:
    return lambda axis: _draw_stages(axis, points, score, cost)


def _note(points: Sequence[Point]) -> str:
    bars = "; bars: 95 % interval by the number of test samples" if any(point.interval for point in points) else ""
    small = [SMALL_WORDS.get(point.stage, point.stage) for point in points if point.stage in SMALL]
    return bars + (f"\n{' and '.join(small)} cost the same and stand side by side" if len(small) > 1 else "")


def _points(record: Record) -> list[Point]:
    score, cost, tested = score_of(record.metrics), cost_of(record), number(record.metrics, "test/samples")
    found = []
    for stage in read_stages(record.metrics):
        value, spent = getattr(stage, score), cost.of_stage.get(stage.name)
        if value is not None and spent is not None:
            interval = wilson(value, int(tested)) if tested and score == "acc1_percent" else None
            found.append(Point(stage.name, spent, value, interval))
    return found


def _draw_stages(axis: Axes, points: Sequence[Point], score: str, cost: Cost) -> None:
    values = [end for point in points for end in (point.score, *(point.interval or ()))]
    most = max(*(point.cost for point in points), 1e-9)
    by_name = {point.stage: point.score for point in points}
    lifted = by_name.get("finetuned", math.inf) >= by_name.get("pruned", -math.inf)
    margin = max(0.3 * (max(values) - min(values)), 1.0)
    places = [(_place(point, most), point.score) for point in points]
    for before, after in pairwise(places):
        arrow = {"arrowstyle": "->", "color": "#9aa5b1", "linestyle": ":", "shrinkB": 5, "mutation_scale": 7}
        axis.annotate("", after, before, arrowprops=arrow, zorder=1)
    for point in points:
        _draw_point(axis, point, most, LABEL_SIDES[point.stage] * (1 if lifted else -1), score)
    axis.set_xlim(0, 1.25 * most)
    # Labels need the room, but there is nothing below 0, and no accuracy above 100.
    axis.set_ylim(min(values) - margin, max(values) + margin)
    highest = 100 if score == "acc1_percent" else math.inf
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if 0 <= value <= highest else ""))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_tick(value)))
    axis.xaxis.set_major_locator(MaxNLocator(6))
    axis.set_xlabel(cost.label, fontsize=9)
    axis.set_ylabel(AXES[score], fontsize=9)
    axis.grid(color=CONTEXT, linewidth=0.6)
    axis.set_axisbelow(True)


def _place(point: Point, most: float) -> float:
    """Where a stage stands: small networks side by side, for bars at the very same cost would hide each other."""
    return point.cost + _APART * most * LABEL_SIDES[point.stage]


def _draw_point(axis: Axes, point: Point, most: float, up: int, score: str) -> None:
    colour = STAGE_COLOURS[point.stage]
    place = _place(point, most)
    if point.interval is not None:
        below, above = point.score - point.interval[0], point.interval[1] - point.score
        axis.errorbar([place], [point.score], [[below], [above]], color=colour, linewidth=1.1, capsize=3, zorder=2)
    axis.scatter([place], [point.score], s=50, color=colour, zorder=3)
    # Labels stand outside of both small networks' bars; the dense one stands alone on the right.
    to_left = point.stage != "dense" and point.cost > 0.35 * most
    edge = place if point.stage == "dense" else point.cost + (-1 if to_left else 1) * _APART * most
    axis.annotate(
        f"{SMALL_WORDS.get(point.stage, point.stage)}\n{format_measure(score, point.score)}{UNITS[score]}",
        (edge, point.score),
        (-8 if to_left else 8, 5 * up),
        textcoords="offset points",
        ha="right" if to_left else "left",
        va=("top", "center", "bottom")[up + 1],
        fontsize=8.5,
        color=colour,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.85},
    )
