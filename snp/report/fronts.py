"""What do runs score at which cost, on paper?  The fronts of the comparison as PNG, SVG and PDF, with their numbers."""

from pathlib import Path

from matplotlib.axes import Axes

from snp.report.canvas import CONTEXT, legend_names, panels, save, write_csv
from snp.report.cells import Cell
from snp.report.plots import PALETTE
from snp.report.runs import COSTS, Runs
from snp.report.stages import SMALL
from snp.report.tradeoff import AXES

__all__ = ["draw_fronts"]

_STYLES = {"pruned": ("o", "--"), "tuned": ("s", "-."), "finetuned": ("D", "-")}


def draw_fronts(runs: Runs, path: str | Path) -> Path:
    """Draw the score against every cost, one line per rule, with bars from the smallest to the largest of the seeds.

    Args:
        runs: to compare.
        path: Where to write the PNG; `<stem>.csv` (line, target, stage, score and shares with their ends) beside it.

    Returns:
        The path of the PNG.
    """
    write_csv(path, _HEADER, [row for cell in runs.cells for stage in SMALL if (row := _row(cell, stage))])
    figure, axes = panels(1, len(COSTS), width=3.6, height=3.2)
    for axis, cost in zip(axes, COSTS, strict=True):
        _draw(axis, runs, cost)
        axis.set_xlabel(COSTS[cost], fontsize=8.5)
    axes[0].set_ylabel(AXES[runs.score], fontsize=8.5)
    # Below the panels, where it covers no point.
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, legend_names(labels), loc="outside lower center", ncols=2, fontsize=7.5, frameon=False)
    return save(
        figure, path, "Score against cost; dashed: pruned, dash-dotted: tuned without labels, solid: fine-tuned"
    )


_HEADER = ("line", "target", "stage", "score", "low", "high", "runs", *(f"{cost}_percent" for cost in COSTS))


def _row(cell: Cell, stage: str) -> tuple[object, ...] | None:
    score = cell.score(stage)
    if score is None:
        return None
    shares = (cell.share(cost) for cost in COSTS)
    costs = ("" if share is None else share.mean for share in shares)
    return cell.line, cell.target, stage, score.mean, score.low, score.high, score.count, *costs


def _draw(axis: Axes, runs: Runs, cost: str) -> None:
    for number, line in enumerate(runs.lines):
        for stage, (marker, dashes) in _STYLES.items():
            cells = [cell for cell in runs.cells if cell.line == line]
            found = [
                (share.mean, score) for cell in cells if (share := cell.share(cost)) and (score := cell.score(stage))
            ]
            found.sort(key=lambda point: point[0])
            scores = [score for _, score in found]
            axis.errorbar(
                [place for place, _ in found],
                [score.mean for score in scores],
                # Of equal numbers the mean may be one rounding away.
                [[max(0.0, s.mean - s.low) for s in scores], [max(0.0, s.high - s.mean) for s in scores]],
                color=PALETTE[number % len(PALETTE)],
                marker=marker,
                markersize=4,
                linestyle=dashes,
                linewidth=1.2,
                capsize=2.5,
                label=line if stage == "finetuned" else None,
            )
    axis.grid(color=CONTEXT, linewidth=0.6)
    axis.set_axisbelow(True)
