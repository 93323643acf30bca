"""What has a run left on disk so far?  Numbers are written as they come, so that an end at any point loses nothing."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pytorch_lightning.utilities import rank_zero_only

from snp.core.files import write_whole
from snp.graph.units import UnitGroup
from snp.plan.costs import CostModel
from snp.plan.problem import Selection
from snp.run.refusals import BUSY
from snp.run.results import RESULTS

__all__ = ["RunFolder", "folder_at", "is_first_process", "locked", "log", "tell"]


def is_first_process() -> bool:
    """Is this the one process that writes files and decides for the others?"""
    return bool(rank_zero_only(lambda: True)())


def log(message: str) -> None:
    """One line on the terminal of the first process, and in its ``run.log``."""
    tell(f"[snp] {message}")


@rank_zero_only
def tell(text: str) -> None:
    """A text on the terminal of the first process, and in its ``run.log``."""
    print(text, flush=True)
    logging.getLogger("snp").info(text)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else writes to a run's folder meanwhile; the lock goes with the process, however that ends.

    Raises:
        ValueError: another run writes there.
    """
    if not is_first_process():  # the others belong to the first
        yield
        return
    try:
        with FileLock(path / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise ValueError(f"run_dir={path}: {BUSY}") from error


def folder_at(path: str | Path, argument: str) -> Path:
    """The folder of that path, made if it is not there.

    Raises:
        ValueError: it cannot be made; the message names ``argument``.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as trial:  # before hours pass whose result could not be kept
            trial.write(b"x")
    except OSError as error:
        raise ValueError(f"{argument}={path} cannot be written to: {error.strerror}; give another folder") from error
    return folder


class RunFolder:
    """A run's folder and its flat ``metrics.json``; only the first process writes.

    Attributes:
        path: the folder.
        metrics: everything recorded so far.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = folder_at(path, "run_dir")
        self.metrics: dict[str, Any] = {}
        self._since: dict[str, Any] = {}
        self._keeps_earlier = (self.path / "metrics.json").exists()

    def record(self, numbers: dict[str, Any]) -> None:
        """Add numbers and write them all; NaN is written as null."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in numbers.items()}
        self.metrics |= finite
        self._since |= finite
        if not self._keeps_earlier:
            self._write()

    def recorded_since(self) -> dict[str, Any]:
        """The numbers recorded since this was asked before."""
        found, self._since = self._since, {}
        return found

    @rank_zero_only
    def begin(self, facts: Mapping[str, Any]) -> None:
        """Say whose numbers these will be, where no plan is here that says it of an earlier run's."""
        if not (self.path / "plan.json").exists():
            self._keeps_earlier = False
            self.write_facts(facts)

    @rank_zero_only
    def begin_results(self) -> None:
        """Remove what an earlier run in this folder made from its plan; until here a mistake leaves it as it was."""
        for pattern in RESULTS:
            self.remove(pattern)
        self._keeps_earlier = False

    @rank_zero_only
    def keep_results(self) -> None:
        """What lies here is of this very plan: numbers are written beside it from now on."""
        self._keeps_earlier = False
        self._write()

    @rank_zero_only
    def remove(self, pattern: str) -> None:
        """Remove files."""
        for path in self.path.glob(pattern):
            path.unlink()

    @rank_zero_only
    def _write(self) -> None:
        self.replace("metrics.json", json.dumps(self.metrics, indent=1) + "\n")

    @rank_zero_only
    def write_data(self, settings: Mapping[str, Any], format: Mapping[str, Any], seed: int) -> None:
        """Write ``data.json``: which samples the run saw, and in which form its network wants them (for exports)."""
        text = json.dumps({"settings": dict(settings), "format": dict(format), "seed": seed}, indent=1)
        self.replace("data.json", text + "\n")

    @rank_zero_only
    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Write ``run.json``: what was asked, of which code, on which machine."""
        self.replace("run.json", json.dumps(dict(facts), indent=1) + "\n")

    @rank_zero_only
    def write_variance(self, groups: Sequence[UnitGroup], selection: Selection) -> None:
        """Write ``variance.csv``: the cumulative variance along the order of every group that has one."""
        rows = [
            (name, num_kept + 1, num_units, f"{share:.10g}")
            for name, num_units, curve in _curves(groups, selection, "kept_variance")
            for num_kept, share in enumerate(curve)
        ]
        self._table("variance.csv", ("group", "rank", "num_units", "cumulative_variance"), rows)

    @rank_zero_only
    def write_damage(self, groups: Sequence[UnitGroup], selection: Selection) -> None:
        """Write ``damage.csv``: what the plan expects at the output with the first k units kept, where it decided."""
        rows = [
            (name, num_kept, num_units, f"{damage:.8g}")
            for name, num_units, curve in _curves(groups, selection, "damage")
            for num_kept, damage in enumerate(curve)
        ]
        self._table("damage.csv", ("group", "num_kept", "num_units", "damage"), rows)

    @rank_zero_only
    def write_layers(self, costs: CostModel, kept: Sequence[int]) -> None:
        """Write ``layers.csv``: shape and multiply-accumulates of every layer's weight, before and after."""
        before, after = costs.whole.layers(costs.whole.dense), costs.layers(kept)
        rows = [
            ("x".join(map(str, shape)), "x".join(map(str, left)), macs, macs_left)
            for name, (shape, macs) in before.items()
            for left, macs_left in [after.get(name, ((0,) * len(shape), 0))]  # nothing of a block that goes
        ]
        header = ("weight", "dense_shape", "pruned_shape", "dense_macs", "pruned_macs")
        self._table("layers.csv", header, [(name, *row) for name, row in zip(before, rows, strict=True)])

    def _table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(header)
        writer.writerows(rows)
        self.replace(name, text.getvalue())

    def replace(self, name: str, text: str) -> None:
        """A reader, or a killed process, never sees half a file."""
        write_whole(self.path / name, text)


def _curves(groups: Sequence[UnitGroup], selection: Selection, curve: str) -> Iterator[tuple[str, int, list[float]]]:
    """Name, number of units and values of a choice's curve, of every group that has one."""
    for group, choice in zip(groups, selection.choices, strict=True):
        found = getattr(choice, curve)
        if found is not None:
            yield group.name, group.num_units, found.tolist()
