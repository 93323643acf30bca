"""What does a whole prune job of a full-size network cost, in memory and in passes over the data?

One process per network, random weights, random images: analyse, calibrate, plan, prune, self-check. The time of
calibration is compared with the plain forward pass of the same batches, in turns.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from harness import FITS, print_provenance, print_table
from torch import Tensor, nn

import snp
from snp import models
from snp.measure.moments import MomentCollector
from snp.settings import PruneSettings
from snp.surgery.subject import subject_of

NETWORKS: dict[str, dict[str, Any]] = {
    # As timm initialises it, the last norm of every block is zero: blocks would do nothing, and a check see nothing.
    "resnet50": {"model_name": "resnet50", "zero_init_last": False},
    "vgg16": {"model_name": "vgg16"},
    "deit_small": {"model_name": "deit_small_patch16_224"},
}
METHODS: dict[str, dict[str, Any]] = {"plain": {"ordering": "zca", "cut": "variance", **FITS["joint"]}, "default": {}}
LIMIT_GIB = 16


def job(network: str, method: str, options: argparse.Namespace) -> dict[str, Any]:
    """Prune one network and measure it; run in a process of its own, as the peak of memory is the process's."""
    torch.manual_seed(0)
    model = models.build("timm", NETWORKS[network], num_classes=1000).eval()
    batches = list(torch.randn(options.samples, 3, 224, 224).split(options.batch_size))
    settings = PruneSettings(target_macs=options.target_macs, **METHODS[method])
    started = time.perf_counter()
    result = snp.prune(model, batches, settings)
    job_s = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (30 if sys.platform == "darwin" else 20)
    plain, full = _passes(model, batches, settings, options.repeats)
    macs = result.plan.macs["pruned"] / result.plan.macs["dense"]
    return {
        "job_s": job_s,
        "peak_gib": peak,
        "macs": macs,
        "check": result.check,
        "forward_s": plain,
        "calibrate_s": full,
        "ratios": [slow / fast for slow, fast in zip(full, plain, strict=True)],
    }


def _passes(
    model: nn.Module, batches: list[Tensor], settings: PruneSettings, repeats: int
) -> tuple[list[float], list[float]]:
    """Seconds of plain passes and of passes that collect moments, taken in turns."""
    readers = subject_of(model, batches[0][:2], settings).readers
    plain, full = [], []
    _seconds(model, batches[:1])  # the first call of every layer is slower
    for _ in range(repeats):
        plain.append(_seconds(model, batches))
        with MomentCollector(model, readers):
            full.append(_seconds(model, batches))
    return plain, full


def _seconds(model: nn.Module, batches: list[Tensor]) -> float:
    started = time.perf_counter()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    return time.perf_counter() - started


def in_own_process(network: str, method: str, words: list[str]) -> dict[str, Any]:
    """The result of :func:`job` from a fresh process."""
    command = [sys.executable, __file__, *words, "--job", network, method]
    text = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=["plain"], help="the paper's, or the library's own settings"
    )
    parser.add_argument("--samples", type=int, default=32, help="random images of 224 x 224 pixels")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3, help="pairs of a plain and a measuring pass")
    parser.add_argument("--target-macs", type=float, default=0.7, help="share of the MACs that is left")
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def _row(network: str, method: str, found: dict[str, Any]) -> list[str]:
    ratios = found["ratios"]
    return [
        f"{network}, {method}",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        f"{statistics.median(found['forward_s']):.1f}",
        f"{statistics.median(found['calibrate_s']):.1f}",
        f"{found['job_s']:.0f}",
        f"{found['peak_gib']:.2f}",
        f"{found['macs']:.3f}",
        f"{found['check']:.0e}",
    ]


def main() -> None:
    options = options_of()
    if options.job:
        print(json.dumps(job(*options.job, options)))
        return
    jobs = [(network, method) for network in options.models for method in options.methods]
    results = {key: in_own_process(*key, sys.argv[1:]) for key in jobs}
    print(f"\n{options.samples} random images of 224 x 224 pixels, batches of {options.batch_size}")
    header = ["network, settings", "calibrate / forward", "forward s", "calibrate s", "job s", "peak GiB", "MACs left"]
    print_table([*header, "self-check"], (_row(*key, found) for key, found in results.items()))
    print(f"ratio: median (smallest to largest) of {options.repeats} pairs of passes over the batches, taken in turns")
    print_provenance()
    over = [", ".join(key) for key, found in results.items() if found["peak_gib"] > LIMIT_GIB]
    if over:
        sys.exit(f"error: {'; '.join(over)} took more than {LIMIT_GIB} GiB")


if __name__ == "__main__":
    main()
