"""What do runs answer that differ in a few settings: scores over the seeds, and which setting is ahead of which?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from snp.report.document import Cell, Table
from snp.report.intervals import mean_and_spread
from snp.report.record import FOUND, Record
from snp.report.runs import Runs
from snp.report.stages import LOWER_IS_BETTER, SMALL, number

__all__ = [
    "EVERYWHERE",
    "Answer",
    "Lead",
    "Points",
    "answer_of",
    "is_number",
    "leads",
    "leads_table",
    "rows_of",
    "value_of",
]

# What follows from a setting, or is chosen with another one, is no question of its own.
_NOT_ASKED = {"seed", "target"} | FOUND
_ENOUGH = 3  # seeds, before a lead in all of them says something

EVERYWHERE = "all runs"  # where nothing but the axis differs

# Line -> value along the axis -> seed -> score.
Points = dict[str, dict[str, dict[str, float]]]


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


@dataclass(frozen=True)
class Lead:
    """At one place, the setting with the best mean and the next one.

    Attributes:
        place: value along the axis; `EVERYWHERE` where values along the axis are what is compared.
        best, other: the two.
        lead: mean difference of their scores, seed by seed: what a seed does to both alike is not in it.
        ahead: number of seeds in which the best one is ahead.
        seeds: number of seeds that both have.
    """

    place: str
    best: str
    other: str
    lead: float
    ahead: int
    seeds: int

    @property
    def is_decided(self) -> bool:
        """Ahead in every seed, of three at least."""
        return self.ahead == self.seeds >= _ENOUGH


def asked_of(runs: Runs) -> dict[str, list[str]]:
    """Settings in which runs differ, a target by its number; the seed where they differ in nothing else."""
    targets = [f"{record.target[1]:g}" if record.target else "-" for record in runs.records]
    kinds = {record.target[0] for record in runs.records if record.target}
    name = f"target_{kinds.pop()}" if len(kinds) == 1 else "target"
    found = {name: values for name, values in runs.varying.items() if name not in _NOT_ASKED} | {name: targets}
    found = {name: values for name, values in found.items() if len(set(values)) > 1}
    return found or {"seed": [_seed(record) for record in runs.records]}


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


def leads(answer: Answer, stage: str) -> list[Lead]:
    """At every value along the axis the best line and the next; of a single line, the best value without numbers."""
    points = answer.stages[stage]
    if len(answer.lines) > 1:
        places = {text: {line: points[line][text] for line in points if text in points[line]} for text in answer.order}
    elif answer.along != "seed" and not all(map(is_number, answer.order)):
        places = {EVERYWHERE: next(iter(points.values()))}
    else:
        return []
    return [lead for place, rivals in places.items() if (lead := _lead(place, rivals, answer.score))]


def leads_table(answer: Answer, stage: str) -> Table | None:
    """The leads, each with the number of seeds that say so; None where there is nothing to compare."""
    found = leads(answer, stage)
    unit = "lead" if answer.score in LOWER_IS_BETTER else "lead (points)"
    first = "at" if any(lead.place == EVERYWHERE for lead in found) else answer.along
    header = (first, "best mean", "next", unit, "seeds in which it is ahead", "decided?")
    rows = [
        [lead.place, lead.best, lead.other, Cell(f"{lead.lead:.2f}", lead.lead), f"{lead.ahead} of {lead.seeds}",
         "yes" if lead.is_decided else "no"]
        for lead in found
    ]  # fmt: skip
    return Table(header, rows, words=(0, 1, 2, 4, 5)) if rows else None


def rows_of(points: Points, order: Sequence[str]) -> Iterator[tuple[object, ...]]:
    """Line, value along the axis, mean, smallest, largest, number of runs."""
    for line, values in points.items():
        for text in order:
            if text in values:
                scores = list(values[text].values())
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


def _lead(place: str, rivals: Mapping[str, Mapping[str, float]], score: str) -> Lead | None:
    if len(rivals) < 2:
        return None
    sign = -1 if score in LOWER_IS_BETTER else 1
    ranked = sorted(rivals, key=lambda name: -sign * mean_and_spread(list(rivals[name].values()))[0])
    best, other = ranked[:2]
    pairs = [sign * (rivals[best][seed] - rivals[other][seed]) for seed in rivals[best] if seed in rivals[other]]
    if not pairs:
        return None
    return Lead(place, best, other, sum(pairs) / len(pairs), sum(pair > 0 for pair in pairs), len(pairs))


def _points(runs: Runs, asked: Mapping[str, list[str]], along: str, stage: str) -> Points:
    others = [name for name in asked if name != along]
    found: Points = {}
    for place, record in enumerate(runs.records):
        score = number(record.metrics, f"{stage}/{runs.score}")
        if score is not None:
            line = ", ".join(f"{name}={asked[name][place]}" for name in others) or EVERYWHERE
            found.setdefault(line, {}).setdefault(asked[along][place], {})[_seed(record)] = score
    return found


def _seed(record: Record) -> str:
    return str(record.settings.get("seed", "-"))
