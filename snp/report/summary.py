"""What does a sweep answer?  ``summary.csv``, one figure with mean and spread over the seeds, and ``summary.html``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from snp.report.canvas import TEXT, panels, save, write_csv
from snp.report.compare import write_comparison
from snp.report.intervals import mean_and_spread
from snp.report.runs import Runs, read_runs
from snp.report.stages import STAGES, number

__all__ = ["write_summary"]

_NUMBERS = ("macs", "params")
# What follows from a setting, or is chosen with another one, is no question of its own.
_NOT_ASKED = {"seed", "level", "samples", "target"}
_HUES = ("#2a6f97", "#c8553d", "#5b8e7d", "#8a6fb0", "#d4a017", "#3d405b", "#a44a3f", "#7f8c8d", "#bc6c25")

Points = dict[str, dict[str, list[float]]]


def write_summary(folder: str | Path) -> Path:
    """Write ``summary.csv`` (a row per run), ``answer.png``, ``.svg``, ``.pdf`` and ``.csv``, and ``summary.html``.

    Args:
        folder: of a sweep, with a run in each of its folders.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: there are no runs in it.
        ValueError: the runs cannot be compared.
    """
    place = Path(folder)
    runs = read_runs([place])
    asked = {name: values for name, values in _asked(runs).items() if len(set(values)) > 1}
    _write_rows(runs, asked, place / "summary.csv")
    if asked:
        _draw_answer(runs, asked, place / "answer.png")
    return write_comparison([place], place / "summary.html", f"What {place.name} answers")


def _asked(runs: Runs) -> dict[str, list[str]]:
    """Settings in which runs differ; a target by its number."""
    targets = [f"{record.target[1]:g}" if record.target else "-" for record in runs.records]
    kinds = {record.target[0] for record in runs.records if record.target}
    name = f"target_{kinds.pop()}" if len(kinds) == 1 else "target"
    return {**{name: found for name, found in runs.varying.items() if name not in _NOT_ASKED}, name: targets}


def _write_rows(runs: Runs, asked: dict[str, list[str]], path: Path) -> None:
    names = [f"{stage}/{part}{runs.score}" for stage in STAGES for part in ("val_", "")]
    names += [f"{stage}/{name}" for stage in STAGES[:2] for name in _NUMBERS]
    names += ["latency/measured_share", "calibration/reused", "time/finetune_s"]
    header = ["run", "seed", *asked, *names]
    rows = [
        [runs.names[record.folder], record.settings.get("seed"), *(values[place] for values in asked.values())]
        + [record.metrics.get(name) for name in names]
        for place, record in enumerate(runs.records)
    ]
    write_csv(path, header, rows)


def _draw_answer(runs: Runs, asked: dict[str, list[str]], path: Path) -> None:
    """Scores on the test part after pruning and after fine-tuning, one line per combination of the other settings."""
    along = _axis(asked)
    found = {stage: _points(runs, asked, along, f"{stage}/{runs.score}") for stage in STAGES[1:]}
    found = {stage: points for stage, points in found.items() if points}
    if not found:
        return
    order = sorted(dict.fromkeys(asked[along]), key=lambda text: (not _is_number(text), _value(text), text))
    figure, axes = panels(1, len(found), width=5.2, height=3.6)
    for axis, (stage, points) in zip(axes, found.items(), strict=True):
        _draw(axis, points, order)
        axis.set_title(f"{stage}, {runs.score}", fontsize=9, color=TEXT)
        axis.set_xlabel(along, fontsize=8.5, color=TEXT)
    if max(map(len, found.values())) > 1:
        axes[0].legend(fontsize=7.5, frameon=False)
    num_seeds = len({record.settings.get("seed") for record in runs.records})
    seeds = f"mean of {num_seeds} seeds, bars from the smallest to the largest" if num_seeds > 1 else "one seed"
    save(figure, path, f"{along}: {seeds}")
    rows = [(stage, *row) for stage, points in found.items() for row in _rows(points, order)]
    write_csv(path, ("stage", "line", along, "mean", "smallest", "largest", "runs"), rows)


def _axis(asked: dict[str, list[str]]) -> str:
    """The setting along the axis: the one with numbers that takes most values, else the one with most."""
    return max(asked, key=lambda name: (all(map(_is_number, asked[name])), len(set(asked[name]))))


def _points(runs: Runs, asked: dict[str, list[str]], along: str, metric: str) -> Points:
    """Line -> value along the axis -> scores of the seeds."""
    found: Points = {}
    for place, record in enumerate(runs.records):
        score = number(record.metrics, metric)
        if score is not None:
            line = ", ".join(f"{name}={values[place]}" for name, values in asked.items() if name != along) or "all"
            found.setdefault(line, {}).setdefault(asked[along][place], []).append(score)
    return found


def _rows(points: Points, order: list[str]) -> Iterator[tuple[Any, ...]]:
    for line, values in points.items():
        for text in order:
            if text in values:
                yield line, text, *mean_and_spread(values[text]), len(values[text])


def _draw(axis: Axes, points: Points, order: list[str]) -> None:
    is_numeric = all(map(_is_number, order))
    for hue, (line, values) in zip(_HUES * (1 + len(points) // len(_HUES)), points.items(), strict=False):
        present = [text for text in order if text in values]
        places = [_value(text) if is_numeric else order.index(text) for text in present]
        spreads = [mean_and_spread(values[text]) for text in present]
        means = [mean for mean, _, _ in spreads]
        bars = [[mean - low for mean, low, _ in spreads], [high - mean for mean, _, high in spreads]]
        style: Any = {"marker": "o", "markersize": 3.5, "linewidth": 1.3, "capsize": 2, "color": hue}
        axis.errorbar(places, means, yerr=bars, label=line, **style, linestyle="-" if is_numeric else "none")
    if not is_numeric:
        axis.set_xticks(range(len(order)), order, rotation=20, ha="right")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _value(text: str) -> float:
    return float(text) if _is_number(text) else 0.0
