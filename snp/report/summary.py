"""What does a sweep leave?  ``summary.csv``, one figure with mean and spread over the seeds, and ``summary.html``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from snp.report.answer import Answer, Points, answer_of, is_number, rows_of, value_of
from snp.report.canvas import CONTEXT, TEXT, drawing, legend_names, panels, save, write_csv
from snp.report.compare import subjects, write_comparison
from snp.report.document import Figure as Drawn
from snp.report.document import Section, Text
from snp.report.intervals import mean_and_spread
from snp.report.leads import leads_table, sentences, unpaired
from snp.report.runs import Runs, read_runs
from snp.report.stages import STAGE_WORDS, STAGES, counted
from snp.report.tradeoff import AXES

__all__ = ["write_summary"]


_NUMBERS = ("macs", "params")
_HUES = ("#2a6f97", "#c8553d", "#5b8e7d", "#8a6fb0", "#d4a017", "#3d405b", "#a44a3f", "#7f8c8d", "#bc6c25")
_ASIDE = 0.012  # of the axis, between lines: bars at the very same place would hide each other
_LETTERS = 85  # of a legend that fit side by side below a panel
# Lines of a legend for which there is room below a panel and inside of one, and the height of another, inches.
_ROWS, _ROWS_INSIDE, _ROW = 3, 15, 0.15
_ALONG = {
    "target_macs": "share of the MACs that was asked for",
    "target_params": "share of the parameters that was asked for",
    "target_latency": "share of the time that was asked for",
    "calibration.samples": "calibration samples",
    "finetune.epochs": "epochs of fine-tuning",
}


def write_summary(folder: str | Path, question: str = "") -> tuple[Path, list[str]]:
    """Write ``summary.csv`` (a row per run), ``answer.png``, ``.svg``, ``.pdf`` and ``.csv``, and ``summary.html``.

    Args:
        folder: of a sweep, with a run in each of its folders.
        question: that the sweep asks; the title of the page.

    Returns:
        The path of the page, and sentences that say which setting is ahead.

    Raises:
        FileNotFoundError: there are no runs in it.
        ValueError: the runs cannot be compared.
    """
    place = Path(folder)
    runs = read_runs([place])
    answer = answer_of(runs)
    _write_rows(runs, answer, place / "summary.csv")
    sections: list[Section] = []
    if answer.stages:
        _draw_answer(answer, ", ".join(subjects(runs)), place / "answer.png")
        sections.append(_section(answer))
    title = question or f"What {place.name} answers"
    page = write_comparison([place], place / "summary.html", title, sections)
    return page, sentences(answer)


def _write_rows(runs: Runs, answer: Answer, path: Path) -> None:
    names = [f"{stage}/{part}{runs.score}" for stage in STAGES for part in ("val_", "")]
    names += [f"{stage}/{name}" for stage in STAGES[:2] for name in _NUMBERS]
    names += [f"latency/measured_share{part}" for part in ("", "_low", "_high")]
    names += ["calibration/reused", "time/finetune_s"]
    asked = {name: values for name, values in answer.asked.items() if name != "seed"}
    asked |= {name: values for name, values in runs.varying.items() if name == "prune.seed"}
    rows = [
        [runs.names[record.folder], record.seed, *(values[place] for values in asked.values())]
        + [record.metrics.get(name) for name in names]
        for place, record in enumerate(runs.records)
    ]
    write_csv(path, ["run", "seed", *asked, *names], rows)


def _section(answer: Answer) -> Section:
    """The figure, and who is ahead."""
    height = 3.4 + _ROW * max(0, len(answer.lines) - _ROWS_INSIDE)
    drawn = tuple(
        drawing(lambda axis, stage=stage: _draw(axis, answer, stage, has_legend=True), width=4.6, height=height)  # type: ignore[misc]
        for stage in answer.stages
    )
    last = list(answer.stages)[-1]
    table = leads_table(answer, last)
    note = Text(
        f"Which setting is ahead {STAGE_WORDS[last]}, on the test part; differences are taken seed by seed, over the "
        "seeds that all settings have a run of. A lead counts as decided where the same setting is ahead in every one "
        "of at least three seeds; all else is noise until more seeds say so."
    )
    alone = [Text(f"{sentence[:1].upper()}{sentence[1:]}.") for sentence in unpaired(answer, last)]
    return Section(
        "The answer", (Drawn(_title(answer), "answer.png", drawn), *((note, table) if table else ()), *alone)
    )


def _draw_answer(answer: Answer, subject: str, path: Path) -> None:
    """Scores on the test part after pruning and after fine-tuning, one line per combination of the other settings."""
    figure, axes = panels(1, len(answer.stages), width=5.2, height=3.6)
    for axis, stage in zip(axes, answer.stages, strict=True):
        _draw(axis, answer, stage)
    if len(answer.lines) > 1:
        _name_lines(figure, axes[0], answer)
    # Two lines: a single panel is narrow.
    save(figure, path, f"{subject}\n{_title(answer)}")
    rows = [(stage, *row) for stage, points in answer.stages.items() for row in rows_of(points, answer.order)]
    write_csv(path, ("stage", "line", answer.along, "mean", "smallest", "largest", "runs"), rows)


def _name_lines(figure: Figure, axis: Axes, answer: Answer) -> None:
    """The legend below the panels, where it covers no point, in as many columns as there is room for."""
    handles, labels = axis.get_legend_handles_labels()
    title = _common_name(answer)
    shown = _shown(labels, title)
    num_columns = max(1, min(5, len(shown), int(_LETTERS * len(answer.stages) / (max(map(len, shown)) + 6))))
    more = max(0, math.ceil(len(shown) / num_columns) - _ROWS)
    figure.set_figheight(figure.get_figheight() + more * _ROW)
    place: Any = {"loc": "outside lower center", "ncols": num_columns, "fontsize": 7.5, "frameon": False}
    figure.legend(handles, shown, title=title, title_fontsize=7.5, **place)


def _title(answer: Answer) -> str:
    """How many seeds there are, and what their bars span."""
    found = [scores for points in answer.stages.values() for values in points.values() for scores in values.values()]
    seeds = {seed for scores in found for seed in scores}
    if answer.along == "seed":
        return counted(len(seeds), "seed")
    again = any(len(scores) > 1 for each in found for scores in each.values())
    if len(seeds) == 1 and not again:
        return "One seed"
    more = ", some of them run more than once" if again else ""
    return f"Mean of {counted(len(seeds), 'seed')}{more}; bars from the smallest to the largest"


def _common_name(answer: Answer) -> str | None:
    """The one setting that tells the lines apart, if it is one."""
    names = [name for name in answer.asked if name != answer.along]
    return names[0] if len(names) == 1 else None


def _shown(lines: Sequence[str], name: str | None) -> list[str]:
    return legend_names([line.removeprefix(f"{name}=") if name else line for line in lines])


def _draw(axis: Axes, answer: Answer, stage: str, has_legend: bool = False) -> None:
    points: Points = answer.stages[stage]
    is_numeric = all(map(is_number, answer.order)) and answer.along != "seed"
    places = {text: value_of(text) if is_numeric else answer.order.index(text) for text in answer.order}
    aside = _ASIDE * (max(places.values()) - min(places.values()) or 1)
    if answer.dense is not None:
        axis.axhline(answer.dense, color="#6c757d", linewidth=0.9, linestyle=":", zorder=1)
        axis.annotate("dense", (0.995, answer.dense), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                      fontsize=7.5, color="#6c757d")  # fmt: skip
    lines = answer.lines
    for line, values in points.items():
        shift = aside * (lines.index(line) - (len(lines) - 1) / 2)
        present = [text for text in answer.order if text in values]
        scores = [[score for found in values[text].values() for score in found] for text in present]
        hue = _HUES[lines.index(line) % len(_HUES)]
        _draw_line(axis, [places[text] + shift for text in present], scores, line, hue, is_numeric)
    axis.set_title(STAGE_WORDS[stage], fontsize=9, color=TEXT)
    axis.set_xlabel(_ALONG.get(answer.along, answer.along), fontsize=8.5, color=TEXT)
    axis.set_ylabel(AXES[answer.score], fontsize=8.5, color=TEXT)
    axis.grid(axis="y", color=CONTEXT, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.margins(y=0.12)
    if not is_numeric:
        axis.set_xticks(range(len(answer.order)), answer.order, rotation=20, ha="right")
    elif len(answer.order) <= 9:
        axis.set_xticks([value_of(text) for text in answer.order], answer.order)
    if has_legend and len(lines) > 1:
        name = _common_name(answer)
        handles, labels = axis.get_legend_handles_labels()
        axis.legend(handles, _shown(labels, name), title=name, fontsize=7, title_fontsize=7)


def _draw_line(
    axis: Axes, places: Sequence[float], scores: Sequence[list[float]], line: str, hue: str, is_joined: bool
) -> None:
    spreads = [mean_and_spread(found) for found in scores]
    # Of equal numbers the mean may be one rounding away.
    bars = [[max(0.0, mean - low) for mean, low, _ in spreads], [max(0.0, high - mean) for mean, _, high in spreads]]
    style: Any = {"marker": "o", "markersize": 3.5, "linewidth": 1.3, "capsize": 2, "color": hue}
    axis.errorbar(
        places, [mean for mean, _, _ in spreads], yerr=bars, label=line, linestyle="-" if is_joined else "none", **style
    )
