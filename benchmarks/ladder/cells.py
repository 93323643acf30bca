"""What is measured of a rung at one share for one seed, and in which order are cells measured?"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness import Batches, accuracy

from ladder.makers import Calibrated, NotPossibleError, made
from ladder.networks import NETWORKS, Network
from ladder.results import Results
from ladder.rungs import Rung, Table
from snp.speed.network import macs, num_params

__all__ = ["Cell", "cells_of", "measure"]


@dataclass(frozen=True, eq=False)
class Cell:
    """One rung of a network at a share of its MACs, for one seed."""

    network: str
    rung: Rung
    share: float
    seed: int

    @property
    def key(self) -> dict[str, Any]:
        """What the cell is, whatever table it stands in: equal keys are measured once."""
        return {
            "network": self.network,
            "maker": self.rung.maker,
            "settings": dict(self.rung.settings),
            "batch_norm": self.rung.batch_norm,
            "share": self.share,
            "seed": self.seed,
        }


def cells_of(network: str, rung: Rung, seeds: Sequence[int]) -> list[Cell]:
    """Cells of one row of a network's table."""
    setting = NETWORKS[network]
    seeds = seeds[: rung.most_seeds if rung.is_seeded or setting.is_halved else 1]
    if rung.maker == "dense":
        return [Cell(network, rung, 1.0, seed) for seed in seeds]
    shares = setting.shares + (setting.more_shares if rung.is_main else ())
    return [Cell(network, rung, share, seed) for seed in seeds for share in shares]


def _all_cells(network: str, tables: Iterable[Table], seeds: Sequence[int]) -> list[Cell]:
    """Every cell once: seed by seed, cheap ones first, main ones before others."""
    found = {}
    for table in tables:
        if network in table.networks:
            for rung in table.rungs:
                for cell in cells_of(network, rung, seeds):
                    found[str(cell.key)] = cell
    return sorted(found.values(), key=lambda cell: (cell.rung.is_sequential, cell.seed, not cell.rung.is_main))


def measure(
    name: str, network: Network, tables: Iterable[Table], seeds: Sequence[int], fits: Sequence[str], results: Results
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Measure what is not there yet, and yield every cell of a network with its values.

    Args:
        name: of the network.
        network: its weights and images.
        tables: comparisons; those of other networks are passed over.
        seeds: of the calibration images.
        fits: ``"joint"``, ``"sequential"`` or both: which cells to measure in this process.
        results: where cells are kept.
    """
    images = _Images(network)
    for cell in _all_cells(name, tables, seeds):
        if ("sequential" if cell.rung.is_sequential else "joint") not in fits:
            continue
        yield cell, results.measure(cell.key, lambda cell=cell: _values(cell, network, images.of(cell.seed)))


class _Images:
    """Keeps what was measured for the latest seed."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._latest: Calibrated | None = None

    def of(self, seed: int) -> Calibrated:
        if self._latest is None or self._latest.seed != seed:
            self._latest = None  # let go of the memory first
            self._latest = Calibrated(self._network.model, self._network.calibration(seed), seed)
        return self._latest


def _values(cell: Cell, network: Network, calibrated: Calibrated) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        small = made(calibrated, cell.rung, cell.share)
    except NotPossibleError as reason:
        return {"not_possible": str(reason)}
    seconds = time.perf_counter() - started
    test: Batches = network.test(cell.seed)
    example = calibrated.inputs[0].first(1)
    return {
        "acc1_percent": accuracy(small, test),
        "images": sum(len(labels) for _, labels in test),
        "macs_share": macs(small, example) / macs(network.model, example),
        "params": num_params(small),
        "seconds": round(seconds, 2),
    }
