"""Which setting is ahead of which, by how much, and in how many seeds?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from snp.report.answer import EVERYWHERE, Answer, is_number
from snp.report.canvas import briefly
from snp.report.document import Cell, Table
from snp.report.stages import LOWER_IS_BETTER, counted

__all__ = ["Lead", "leads", "leads_table", "sentences", "unpaired"]

_ENOUGH = 3  # seeds, before a lead in all of them says something

# Setting -> seed -> scores of its runs.
_Rivals = Mapping[str, Mapping[str, list[float]]]


@dataclass(frozen=True)
class Lead:
    """At one place, the setting with the best mean and the next one, over the seeds that all settings there have.

    Attributes:
        place: value along the axis; `EVERYWHERE` where values along the axis are what is compared.
        best, other: the two.
        lead: mean difference of their scores, seed by seed: what a seed does to both alike is not in it; 0 or more.
        ahead: number of seeds in which the best one is ahead.
        seeds: number of seeds that all settings at the place have, at least 1.
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


def leads(answer: Answer, stage: str) -> list[Lead]:
    """At every value along the axis the best line and the next; of a single line, the best value without numbers."""
    return [
        _lead(place, rivals, seeds, answer.score)
        for place, rivals in _places(answer, stage).items()
        if (seeds := _common(rivals))
    ]


def unpaired(answer: Answer, stage: str) -> list[str]:
    """Sentences of the places where there is no seed that all settings have, so that none is ahead of another."""
    return [
        f"{stage}, {_words(answer, place)}: there is no seed that all settings have a run of, so none is ahead"
        for place, rivals in _places(answer, stage).items()
        if not _common(rivals)
    ]


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


def sentences(answer: Answer) -> list[str]:
    """For the terminal: the leads in the last stage, and where there can be none."""
    if not answer.stages:
        return []
    stage, found = list(answer.stages)[-1], []
    for lead in leads(answer, stage):
        seeds = f"ahead in {lead.ahead} of {counted(lead.seeds, 'seed')}{'' if lead.is_decided else ' (not decided)'}"
        best, other = (briefly(line, 100) for line in (lead.best, lead.other))
        found.append(f"{stage}, {_words(answer, lead.place)}: best {best}, {lead.lead:.2f} before {other}, {seeds}")
    return found + unpaired(answer, stage)


def _words(answer: Answer, place: str) -> str:
    return answer.along if place == EVERYWHERE else f"{answer.along}={place}"


def _places(answer: Answer, stage: str) -> dict[str, _Rivals]:
    """Where there are two settings or more to compare, and their scores."""
    points, places = answer.stages[stage], dict[str, _Rivals]()
    if len(answer.lines) > 1:
        places = {text: {line: points[line][text] for line in points if text in points[line]} for text in answer.order}
    elif answer.along != "seed" and not all(map(is_number, answer.order)):
        places = {EVERYWHERE: next(iter(points.values()))}
    return {place: rivals for place, rivals in places.items() if len(rivals) > 1}


def _common(rivals: _Rivals) -> list[str]:
    """Seeds that all have: some are easier than others, and who failed in the hard ones is not ahead for it."""
    first, *others = rivals.values()
    return [seed for seed in first if all(seed in other for other in others)]


def _lead(place: str, rivals: _Rivals, seeds: list[str], score: str) -> Lead:
    sign = -1 if score in LOWER_IS_BETTER else 1
    # The same run again is no other seed.
    scores = {name: [sign * fmean(found[seed]) for seed in seeds] for name, found in rivals.items()}
    best, other = sorted(scores, key=lambda name: -fmean(scores[name]))[:2]
    lead = fmean(scores[best]) - fmean(scores[other])
    ahead = sum(one > another for one, another in zip(scores[best], scores[other], strict=True))
    return Lead(place, best, other, lead, ahead, len(seeds))
