"""What has a run left on disk so far?  Numbers are written as they come, so that an end at any point loses nothing."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from snp.graph.units import UnitGroup
from snp.plan.costs import CostModel
from snp.plan.problem import Selection

__all__ = ["RunFolder", "folder_at", "is_first_process", "log"]

# What is made from a plan, and does not fit another one.
_TABLES = ("variance.csv", "damage.csv", "layers.csv")
_PAGES = ("report.md", "report.html", "model_card.md", "figures/*")
_RESULTS = ("pruned.safetensors", "finetuned.safetensors", *_TABLES, *_PAGES)


def is_first_process() -> bool:
    """Is this the one process that writes files and decides for the others?"""
    return bool(rank_zero_only(lambda: True)())


@rank_zero_only
def log(message: str) -> None:
    """One line on the terminal of the first process."""
    print(f"[snp] {message}", flush=True)


def folder_at(path: str | Path, argument: str) -> Path:
    """The folder of that path, made if it is not there.

    Raises:
        ValueError: it cannot be made; the message names ``argument``.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{argument}={path} is not a folder that can be written to: {error.strerror}") from error
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
        self._keeps_earlier = (self.path / "metrics.json").exists()

    def record(self, numbers: dict[str, Any]) -> None:
        """Add numbers and write them all; NaN is written as null."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in numbers.items()}
        self.metrics |= finite
        if not self._keeps_earlier:
            self._write()

    @rank_zero_only
    def begin_results(self) -> None:
        """Remove what an earlier run in this folder made from its plan; until here a mistake leaves it as it was."""
        for pattern in _RESULTS:
            for path in self.path.glob(pattern):
                path.unlink()
        self._keeps_earlier = False

    @rank_zero_only
    def _write(self) -> None:
        self._replace("metrics.json", json.dumps(self.metrics, indent=1) + "\n")

    @rank_zero_only
    def write_data(self, settings: Mapping[str, Any], format: Mapping[str, Any], seed: int) -> None:
        """Write ``data.json``: which samples the run saw, and in which form its network wants them (for exports)."""
        text = json.dumps({"settings": dict(settings), "format": dict(format), "seed": seed}, indent=1)
        (self.path / "data.json").write_text(text + "\n")

    @rank_zero_only
    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Write ``run.json``: what was asked, of which code, on which machine."""
        self._replace("run.json", json.dumps(dict(facts), indent=1) + "\n")

    @rank_zero_only
    def write_variance(self, groups: Sequence[UnitGroup], selection: Selection) -> None:
        """Write ``variance.csv``: the cumulative variance along the order of every group that has one."""
        rows = [
            (group.name, rank, group.num_units, f"{share:.10g}")
            for group, choice in zip(groups, selection.choices, strict=True)
            if choice.kept_variance is not None
            for rank, share in enumerate(choice.kept_variance.tolist(), start=1)
        ]
        self._table("variance.csv", ("group", "rank", "num_units", "cumulative_variance"), rows)

    @rank_zero_only
    def write_damage(self, groups: Sequence[UnitGroup], selection: Selection) -> None:
        """Write ``damage.csv``: what the plan expects at the output with the first k units kept, where it decided."""
        rows = [
            (group.name, num_kept, group.num_units, f"{damage:.8g}")
            for group, choice in zip(groups, selection.choices, strict=True)
            if choice.damage is not None
            for num_kept, damage in enumerate(choice.damage.tolist())
        ]
        self._table("damage.csv", ("group", "num_kept", "num_units", "damage"), rows)

    @rank_zero_only
    def write_layers(self, costs: CostModel, kept: Sequence[int]) -> None:
        """Write ``layers.csv``: shape and multiply-accumulates of every layer's weight, before and after."""
        before, after = costs.layers(costs.dense), costs.layers(kept)
        rows = [
            ("x".join(map(str, shape)), "x".join(map(str, after[name][0])), macs, after[name][1])
            for name, (shape, macs) in before.items()
        ]
        header = ("weight", "dense_shape", "pruned_shape", "dense_macs", "pruned_macs")
        self._table("layers.csv", header, [(name, *row) for name, row in zip(before, rows, strict=True)])

    def _table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(header)
        writer.writerows(rows)
        self._replace(name, text.getvalue())

    def _replace(self, name: str, text: str) -> None:
        """A reader, or a killed process, never sees half a file."""
        partial = self.path / f"{name}.partial"
        partial.write_text(text, encoding="utf-8", newline="")
        partial.replace(self.path / name)
