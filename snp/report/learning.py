"""How did training go, of the dense network and of the pruned one?  Loss, score and learning rate over the steps."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from snp.report.canvas import CONTEXT, CUT, KEPT, drawing, panels, save
from snp.report.record import Record

__all__ = ["draw_learning", "learning_panels"]

_STAGES = {"dense": "dense training", "finetune": "fine-tuning"}
_MEASURES = {"loss": "loss", "acc1_percent": "top-1 (%)", "perplexity": "perplexity"}
_PARTS = {"train": (KEPT, "training"), "val": (CUT, "held out")}
Points = Sequence[tuple[float, float]]


def draw_learning(record: Record, path: str | Path) -> Path | None:
    """Draw the curves of every stage that trained; None, and no file, where nothing did."""
    found = _panels(record)
    if not found:
        return None
    num_columns = min(len(found), 3)
    figure, axes = panels(-(-len(found) // num_columns), num_columns, width=3.1, height=2.2)
    for draw, axis in zip(found, axes, strict=False):
        draw(axis)
    for axis in axes[len(found) :]:
        axis.set_axis_off()
    return save(figure, path, "Training: blue on the training part, red on the part held out")


def learning_panels(record: Record) -> tuple[str, ...]:
    """The same panels as drawings of their own."""
    return tuple(drawing(draw) for draw in _panels(record))


def _panels(record: Record) -> list[Callable[[Axes], None]]:
    found = []
    for stage, words in _STAGES.items():
        for measure, label in _MEASURES.items():
            lines = {part: record.training.get(f"{stage}/{part}_{measure}", []) for part in _PARTS}
            if any(lines.values()):
                found.append(_panel(f"{words}: {label}", lines))
        if rate := record.training.get(f"{stage}/learning_rate"):
            found.append(_panel(f"{words}: learning rate", {"train": rate}, dots=False))
    return found


def _panel(title: str, lines: Mapping[str, Points], dots: bool = True) -> Callable[[Axes], None]:
    def draw(axis: Axes) -> None:
        for part, points in lines.items():
            colour, _ = _PARTS[part]
            # A single epoch is a single point, which a line would not show.
            marker = "o" if dots and len(points) <= 30 else None
            steps, values = [step for step, _ in points], [value for _, value in points]
            axis.plot(steps, values, color=colour, linewidth=1.4, marker=marker, markersize=3.5)
        axis.set_title(title, fontsize=8.5, loc="left")
        axis.set_xlabel("step", fontsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(5))
        axis.grid(color=CONTEXT, linewidth=0.5)
        axis.set_axisbelow(True)

    return draw
