"""Which runs stand side by side, what sets them apart, and which of them differ in nothing but the seed?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from snp.report.cells import Cell
from snp.report.folders import folders_once
from snp.report.record import Record, read_record
from snp.report.settings import FOUND, SEEDS, varying_settings
from snp.report.stages import read_stages, score_of

__all__ = ["COSTS", "Runs", "read_runs"]

# Name of a cost, and the title of what is left of it, as a share of the dense network's.
COSTS = {"macs": "MACs left (%)", "params": "parameters left (%)", "latency": "time of a pass left, in turns (%)"}
# Named by the line's own words, by the point on it, or not chosen by anyone.
_NOT_NAMED = {"ordering", "cut", "planner", "target", "dry_run"} | SEEDS | FOUND
_LONG = 26  # of a name beside a figure, letters


@dataclass(frozen=True)
class Runs:
    """Runs in the order in which they were named, each once; those without a small network are left out."""

    records: tuple[Record, ...]
    left_out: tuple[Record, ...] = ()
    again: tuple[Path, ...] = ()

    @property
    def unfinished(self) -> str:
        """Which ones are left out, and how far they got; empty where there are none."""
        return f"Not finished: {_how_far(self.left_out)}" if self.left_out else ""

    @property
    def notes(self) -> str:
        """:attr:`unfinished`, and which runs were named more than once; empty where there is nothing to say."""
        again = f"Named more than once, counted once: {', '.join(f'`{path}`' for path in self.again)}"
        return "; ".join([*([self.unfinished] if self.left_out else []), *([again] if self.again else [])])

    @cached_property
    def names(self) -> dict[Path, str]:
        """Folder -> the shortest ends of the paths that tell all folders apart."""
        for depth in range(1, 12):
            found = {record.folder: "/".join(record.folder.parts[-depth:]) for record in self.records}
            if len(set(found.values())) == len(found):
                return found
        return {record.folder: str(record.folder) for record in self.records}

    @cached_property
    def labels(self) -> dict[Path, str]:
        """Folder -> its name, or, where names are long, the words by which the run differs from the others."""
        if max(map(len, self.names.values())) <= _LONG:
            return self.names
        known = [
            (self.line_of(record), _target(record), f"seed {self.seeds[record.folder]}") for record in self.records
        ]
        told = [place for place in range(3) if len({words[place] for words in known}) > 1]
        found = {
            record.folder: ", ".join(words[place] for place in told)
            for record, words in zip(self.records, known, strict=True)
        }
        return found if len(set(found.values())) == len(found) else self.names

    @cached_property
    def seeds(self) -> dict[Path, str]:
        """Folder -> the run's seed; that of the prune where this one alone tells runs of one setting apart."""
        both = {record.folder: (record.seed, record.settings.get("seed")) for record in self.records}
        alike = [{both[record.folder] for record in cell.records} for cell in self.cells]
        is_told = all(len(pairs) == len({seed for seed, _ in pairs}) for pairs in alike)
        is_fixed = len({seed for seed, _ in both.values()}) == 1
        texts = {
            folder: str(seed) if is_told else str(own) if is_fixed else f"{seed}, prune.seed={own}"
            for folder, (seed, own) in both.items()
        }
        return {folder: "-" if text == "None" else text for folder, text in texts.items()}

    @property
    def pair(self) -> tuple[Record, ...]:
        """Two runs whose plans are worth a look side by side: one, and the next of another line or else seed.

        Groups of different networks may share their names, and nothing else: both runs are of one network.
        """
        alike = next((each for each in self.by_network.values() if len(each) > 1), self.records[:1])
        first, *others = alike

        def distance(other: Record) -> tuple[bool, bool, bool]:
            is_same = self.line_of(other) == self.line_of(first)
            return is_same, other.target != first.target, other.seed != first.seed

        return (first, min(others, key=distance)) if others else (first,)

    @cached_property
    def by_network(self) -> dict[str, tuple[Record, ...]]:
        """What runs call their network -> its runs; with its parameters where another one has the same name."""
        found: dict[tuple[str, Any], list[Record]] = {}
        for record in self.records:
            found.setdefault((record.model, record.metrics.get("dense/params")), []).append(record)
        times = Counter(model for model, _ in found)
        return {
            model if times[model] == 1 else f"{model} of {params or 'unknown'} parameters": tuple(records)
            for (model, params), records in found.items()
        }

    def suffix_of(self, network: str) -> str:
        """Sets what is drawn once for each network apart by name."""
        return f"-{place + 1}" if (place := list(self.by_network).index(network)) else ""

    @cached_property
    def varying(self) -> dict[str, list[str]]:
        """Setting -> its value in every run, for settings in which runs differ; "-" where a run has none."""
        return varying_settings(self.records)

    @cached_property
    def cells(self) -> list[Cell]:
        """Runs by line and target, in the order of the first run of each."""
        found: dict[tuple[str, str], list[Record]] = {}
        for place, record in enumerate(self.records):
            found.setdefault((self._line(place), _target(record)), []).append(record)
        return [Cell(line, target, tuple(records)) for (line, target), records in found.items()]

    @property
    def lines(self) -> list[str]:
        """All lines, in order."""
        return list(dict.fromkeys(cell.line for cell in self.cells))

    @property
    def score(self) -> str:
        """What the runs are judged by."""
        return score_of(self.records[0].metrics)

    def line_of(self, record: Record) -> str:
        """The line that a run belongs to."""
        return next(cell.line for cell in self.cells if record in cell.records)

    def _line(self, place: int) -> str:
        """The rule, and settings whose value is not the one of most runs."""
        told = {name: values for name, values in self.varying.items() if name not in _NOT_NAMED}
        usual = {name: Counter(values).most_common(1)[0][0] for name, values in told.items()}
        own = [f"{name}={values[place]}" for name, values in told.items() if values[place] != usual[name]]
        return ", ".join([self.rule_of(self.records[place]) or self.records[place].model, *own])

    def rule_of(self, record: Record) -> str:
        """Ordering and cut; the ordering alone where that is all in which the rules differ."""
        cuts = {(one.settings.get("cut"), one.settings.get("planner", "snp")) for one in self.records}
        orderings = {str(one.settings.get("ordering")) for one in self.records}
        if len(cuts) == 1 and cuts.pop()[1] == "snp" and len(orderings) > 1:
            return f"order {record.settings.get('ordering')}"
        return record.rule


def read_runs(paths: Iterable[str | Path]) -> Runs:
    """The runs of some folders: run folders, or folders of them as sweeps leave them.

    Raises:
        FileNotFoundError: a folder holds no run.
        ValueError: no folder was named, a file cannot be read, no run has made a small network, or runs are judged by
            different scores.
    """
    folders, again = folders_once(paths)
    if not folders:
        raise ValueError("name the folders of the runs to compare")
    found = [read_record(folder) for folder in folders]
    records, left_out = (tuple(one for one in found if bool(one.reached) == is_out) for is_out in (False, True))
    if not records:
        raise ValueError(f"no run has got as far as a pruned network: {_how_far(left_out)}; start their command again")
    scores = {score_of(record.metrics) for record in records if read_stages(record.metrics)}
    if len(scores) > 1:
        raise ValueError("runs judged by accuracy and runs judged by perplexity do not stand on one page")
    return Runs(records, left_out, tuple(again))


def _how_far(records: Iterable[Record]) -> str:
    return ", ".join(f"`{record.folder.name}` (got as far as {record.reached})" for record in records)


def _target(record: Record) -> str:
    return "no target" if record.target is None else "{} {:g}".format(*record.target)
