"""What do runs answer that differ in a few settings: which scores has every setting, over the seeds?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from snp.report.intervals import mean_and_spread
from snp.report.runs import Runs
from snp.report.settings import FOUND, SEEDS
from snp.report.stages import SMALL, number

__all__ = [
    "EVERYWHERE",
    "Answer",
    "Points",
    "answer_of",
    "is_number",
    "rows_of",
    "value_of",
]

# What follows from a setting, or is chosen with another one, is no question of its own.
_NOT_ASKED = {"target"} | SEEDS | FOUND

EVERYWHERE = "all runs"  # where nothing but the axis differs

# Line -> value along the axis -> seed -> scores of its runs: one, but where the same was run again.
Points = dict[str, dict[str, dict[str, list[float]]]]


@dataclass(frozen=True)
class Answer:
    """Scores by settings.

    Attributes:
        asked: setting -> its value in every run, for those in which the runs differ.
        along: the setting along the axis.
        order: its values, in order.
        stages: "pruned", "finetuned" -> scores.
        score: what runs are judged by.
        dense: mean score of the dense networks; None where none was scored.
    """

    asked: Mapping[str, list[str]]
    along: str
    order: list[str]
    stages: Mapping[str, Points]
    score: str
    dense: float | None

    @property
    def lines(self) -> list[str]:
        """All lines, in order."""
        return list(dict.fromkeys(line for points in self.stages.values() for line in points))


def asked_of(runs: Runs) -> dict[str, list[str]]:
    """Settings in which runs differ, a target by its number; the seed where they differ in nothing else."""
    targets = [f"{record.target[1]:g}" if record.target else "-" for record in runs.records]
    kinds = {record.target[0] for record in runs.records if record.target}
    name = f"target_{kinds.pop()}" if len(kinds) == 1 else "target"
    found = {name: values for name, values in runs.varying.items() if name not in _NOT_ASKED} | {name: targets}
    found = {name: values for name, values in found.items() if len(set(values)) > 1}
    return found or {"seed": [runs.seeds[record.folder] for record in runs.records]}


def answer_of(runs: Runs) -> Answer:
    """The scores of all runs, on the test part, by what was asked."""
    asked = asked_of(runs)
    # The one with numbers that takes most values, else the one with most.
    along = max(asked, key=lambda name: (all(map(is_number, asked[name])), len(set(asked[name]))))
    dense = [value for record in runs.records if (value := number(record.metrics, f"dense/{runs.score}")) is not None]
    stages = {stage: _points(runs, asked, along, stage) for stage in SMALL}
    return Answer(
        asked,
        along,
        sorted(dict.fromkeys(asked[along]), key=lambda text: (not is_number(text), value_of(text), text)),
        {stage: points for stage, points in stages.items() if points},
        runs.score,
        sum(dense) / len(dense) if dense else None,
    )


def rows_of(points: Points, order: Sequence[str]) -> Iterator[tuple[object, ...]]:
    """Line, value along the axis, mean, smallest, largest, number of runs."""
    for line, values in points.items():
        for text in order:
            if text in values:
                scores = [score for found in values[text].values() for score in found]
                yield line, text, *mean_and_spread(scores), len(scores)


def is_number(text: str) -> bool:
    """Can it stand on an axis of numbers?"""
    try:
        float(text)
    except ValueError:
        return False
    return True


def value_of(text: str) -> float:
    """Its place there; 0 for words."""
    return float(text) if is_number(text) else 0.0


def _points(runs: Runs, asked: Mapping[str, list[str]], along: str, stage: str) -> Points:
    others = [name for name in asked if name != along]
    found: Points = {}
    for place, record in enumerate(runs.records):
        score = number(record.metrics, f"{stage}/{runs.score}")
        if score is not None:
            line = ", ".join(f"{name}={asked[name][place]}" for name in others) or EVERYWHERE
            scores = found.setdefault(line, {}).setdefault(asked[along][place], {})
            scores.setdefault(runs.seeds[record.folder], []).append(score)
    return found
