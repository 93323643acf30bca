"""What has a run left on disk so far?  Numbers are written as they come, so that an end at any point loses nothing."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from snp.planners import Selection
from snp.units import UnitGroup

__all__ = ["RunFolder", "say"]


@rank_zero_only
def say(message: str) -> None:
    """One line on the terminal of the first process."""
    print(f"[snp] {message}", flush=True)


class RunFolder:
    """A run's folder and its flat ``metrics.json``; only the first process writes.

    Attributes:
        path: the folder.
        metrics: everything recorded so far.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self.metrics: dict[str, Any] = {}

    def record(self, numbers: dict[str, Any]) -> None:
        """Add numbers and write them all; NaN is written as null."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in numbers.items()}
        self.metrics |= finite
        self._write()

    @rank_zero_only
    def _write(self) -> None:
        partial = self.path / "metrics.json.partial"
        partial.write_text(json.dumps(self.metrics, indent=1) + "\n")
        partial.replace(self.path / "metrics.json")

    @rank_zero_only
    def write_variance(self, groups: Sequence[UnitGroup], selection: Selection) -> None:
        """Write ``variance.csv``: the cumulative variance along the order of every group that has one."""
        with (self.path / "variance.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["group", "rank", "num_units", "cumulative_variance"])
            for group, choice in zip(groups, selection.choices, strict=True):
                if choice.kept_variance is not None:
                    for rank, share in enumerate(choice.kept_variance.tolist(), start=1):
                        writer.writerow([group.name, rank, group.num_units, f"{share:.8g}"])
