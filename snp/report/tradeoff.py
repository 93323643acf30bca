"""What did the stages of a run score, and at what cost?  One figure, with its numbers in a CSV file beside it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from snp.report.canvas import CONTEXT, CUT, KEPT, panels, save, write_csv
from snp.report.stages import SCORE_WORDS, format_count, format_measure, read_stages, score_of

STAGE_COLOURS = {"dense": "#6c757d", "pruned": CUT, "finetuned": KEPT}
# Pruned and fine-tuned share their MACs: one label goes above, one below its point.
LABEL_SIDES = {"dense": 0, "pruned": -1, "finetuned": 1}
UNITS = {"acc1_percent": " %", "perplexity": ""}
AXES = {"acc1_percent": "top-1 accuracy (%)", "perplexity": "perplexity (lower is better)"}


def score_against_macs(metrics: Mapping[str, Any], path: str | Path) -> Path | None:
    """Draw one labelled point per stage: accuracy, or perplexity, against multiply-accumulates.

    Args:
        metrics: The flat content of `metrics.json`.
        path: Where to write the PNG; `<stem>.csv` (stage, macs, acc1_percent or perplexity) beside it.

    Returns:
        The path of the PNG, or None (and no files) when no stage has both numbers.
    """
    score = score_of(metrics)
    points = [
        (stage.name, stage.macs, value)
        for stage in read_stages(metrics)
        if stage.macs is not None and (value := getattr(stage, score)) is not None
    ]
    if not points:
        return None
    write_csv(path, ("stage", "macs", score), points)
    figure, (axis,) = panels(1, 1, width=6.0, height=4.0)
    _draw_stages(axis, points, score)
    return save(figure, path, f"{SCORE_WORDS[score].capitalize()} against cost")


def _draw_stages(axis: Axes, points: Sequence[tuple[str, float, float]], score: str) -> None:
    all_macs, values = [macs for _, macs, _ in points], [value for _, _, value in points]
    most_macs = max(*all_macs, 1)
    by_name = {name: value for name, _, value in points}
    lifted = by_name.get("finetuned", math.inf) >= by_name.get("pruned", -math.inf)
    margin = max(0.25 * (max(values) - min(values)), 1.0)
    axis.plot(all_macs, values, color="#9aa5b1", linewidth=1, linestyle=":", zorder=1)
    for name, macs, value in points:
        axis.scatter([macs], [value], s=55, color=STAGE_COLOURS[name], zorder=2)
        to_left = name != "dense" and macs > 0.6 * most_macs
        up = LABEL_SIDES[name] if lifted else -LABEL_SIDES[name]
        axis.annotate(
            f"{name}\n{format_measure(score, value)}{UNITS[score]} at {format_count(macs)}",
            (macs, value),
            (-9 if to_left else 9, 7 * up),
            textcoords="offset points",
            ha="right" if to_left else "left",
            va=("top", "center", "bottom")[up + 1],
            fontsize=8.5,
            color=STAGE_COLOURS[name],
        )
    axis.set_xlim(0, 1.35 * most_macs)
    axis.set_ylim(max(0, min(values) - margin), max(values) + margin)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda macs, _: format_count(macs)))
    axis.xaxis.set_major_locator(MaxNLocator(6))
    axis.set_xlabel("MACs per sample", fontsize=9)
    axis.set_ylabel(AXES[score], fontsize=9)
    axis.grid(color=CONTEXT, linewidth=0.6)
    axis.set_axisbelow(True)
