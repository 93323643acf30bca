"""What does it cost to fit layers in sequence, compared with fitting them on the dense network's activations?

Both whole routes, with everything else equal, in turns: from the calibration images to folded weights.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from harness import Batches
from torch import nn

from ladder.results import Results
from snp.fit.calibration import Measured, sensitivity_of
from snp.fit.preparation import prepare
from snp.fit.realise import realise
from snp.graph.batches import Batch
from snp.measure.moments import MomentCollector
from snp.measure.samples import Samples
from snp.pruning import decide
from snp.settings import PruneSettings
from snp.surgery.subject import subject_of

__all__ = ["ROUTES", "rows_of", "run", "seconds_of"]

ROUTES: dict[str, dict[str, Any]] = {
    "zca, cumulative variance": {"ordering": "zca", "cut": "variance"},
    "greedy output order, output error (default)": {},
}
_SHARE = 0.5


def seconds_of(model: nn.Module, batches: Batches, **options: Any) -> float:
    """Seconds from calibration images to the small network, without the analysis, which is the same for all."""
    settings = PruneSettings(target_macs=_SHARE, **options)
    inputs = Batch.all(batches)
    subject = subject_of(model, inputs[0].first(2), settings)
    started = time.perf_counter()
    with torch.no_grad(), MomentCollector(subject.model, subject.readers) as collector:
        for batch in inputs:
            batch.call(subject.model)
    fisher = sensitivity_of(subject, inputs, seed=settings.seed) if settings.needs_sensitivity else {}
    samples = Samples.of(inputs)
    subject, problem = prepare(Measured(subject, collector.moments, samples, sensitivity=fisher), settings)
    realise(subject, problem, decide(subject, problem, settings).plan, settings.fit, samples)
    return time.perf_counter() - started


def _forward_seconds(model: nn.Module, batches: Batches) -> float:
    started = time.perf_counter()
    with torch.no_grad():
        for images, _ in batches:
            model(images)
    return time.perf_counter() - started


def _key(network: str, samples: int, repeat: int) -> dict[str, Any]:
    return {"experiment": "cost", "network": network, "samples": samples, "repeat": repeat}


def run(
    network: str, load: Callable[[], tuple[nn.Module, Batches]], samples: int, repeats: int, results: Results
) -> None:
    """Measure what is not there yet; ``load`` gives the network and its calibration images."""
    if all(results.find(_key(network, samples, repeat)) for repeat in range(repeats)):
        return
    model, batches = load()
    for repeat in range(repeats):
        results.measure(_key(network, samples, repeat), lambda: _values(model, batches))


def _values(model: nn.Module, batches: Batches) -> dict[str, Any]:
    seconds = {"forward": _forward_seconds(model, batches)}
    for name, options in ROUTES.items():
        for calibration in ("joint", "sequential"):
            seconds[f"{name}: {calibration}"] = seconds_of(model, batches, calibration=calibration, **options)
    return {"seconds": seconds}


def rows_of(network: str, samples: int, repeats: int, results: Results) -> list[list[str]]:
    """Rows of the table: a route, seconds of both fits in plain passes over the images, and their ratio."""
    found = [values for repeat in range(repeats) if (values := results.find(_key(network, samples, repeat)))]
    rows = []
    for name in ROUTES if found else ():
        parts = [values["seconds"] for values in found]
        ratios = [part[f"{name}: sequential"] / part[f"{name}: joint"] for part in parts]
        passes = [
            f"{statistics.median(part[f'{name}: {fit}'] / part['forward'] for part in parts):.1f}"
            for fit in ("joint", "sequential")
        ]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, n={len(ratios)})"
        rows.append([f"{network}: {name}", *passes, spread])
    return rows
