"""What do runs score, and at what cost, that differ in nothing but their seed?"""

from __future__ import annotations

from dataclasses import dataclass, replace

from snp.report.intervals import mean_and_spread
from snp.report.record import Record
from snp.report.speed import is_noisy
from snp.report.stages import number, score_of

__all__ = ["Cell", "Spread"]


@dataclass(frozen=True)
class Spread:
    """Mean, smallest and largest of the same number in several runs."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        """As tables show it."""
        if self.count == 1:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} ({self.low:.2f} to {self.high:.2f}, n={self.count})"


@dataclass(frozen=True)
class Cell:
    """Runs that differ in their seed only.

    Attributes:
        line: what sets them apart from other lines: the rule, and settings that differ.
        target: what they were to meet, as "macs 0.5".
        records: one per seed.
    """

    line: str
    target: str
    records: tuple[Record, ...]

    def score(self, stage: str) -> Spread | None:
        """Accuracy or perplexity of a stage over the seeds; None where no run has it."""
        return self._spread(f"{stage}/{score_of(self.records[0].metrics)}")

    def share(self, cost: str) -> Spread | None:
        """Share of the dense network's cost that is left, in percent; of time by the measurement in turns, if calm."""
        if cost == "latency":
            calm = tuple(record for record in self.records if not is_noisy(record.metrics))
            return replace(self, records=calm)._spread("latency/measured_share", 100)
        shares = [
            100 * small / dense
            for record in self.records
            if (small := number(record.metrics, f"pruned/{cost}")) is not None
            and (dense := number(record.metrics, f"dense/{cost}"))
        ]
        return Spread(*mean_and_spread(shares), len(shares)) if shares else None

    def _spread(self, name: str, factor: float = 1) -> Spread | None:
        found = [factor * value for record in self.records if (value := number(record.metrics, name)) is not None]
        return Spread(*mean_and_spread(found), len(found)) if found else None
