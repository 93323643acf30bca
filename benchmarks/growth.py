"""How do time and peak memory of a prune grow with samples, width, depth and processes?

    python benchmarks/growth.py --out docs/images/growth.svg
    python benchmarks/growth.py --axes samples width --preset quick

A residual network of 3 x 3 convolutions with random weights, images of 32 pixels, half of the MACs. Every point is
pruned in a fresh process with one thread: processor seconds, and the peak of its memory with what it had before. For
processes the run framework prunes the digits network under DDP over gloo: seconds by the clock of its stages, and the
peak of the first process.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch
from harness import in_own_process, print_provenance, print_table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import snp

ROOT = Path(__file__).resolve().parents[1]
BASE = {"samples": 64, "width": 64, "depth": 4}
AXES = {"samples": (32, 128, 512), "width": (32, 64, 128), "depth": (2, 4, 8), "processes": (1, 2, 3)}
_SIZE = 32


class Block(nn.Module):
    """Two convolutions beside a residual stream; the channels between them are cut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The stream and what the block adds, rectified."""
        return torch.relu(x + self.body(x))


def network(width: int, depth: int) -> nn.Module:
    """So many blocks of so many channels on maps of 8 x 8, behind a stem and in front of ten classes."""
    stem = nn.Conv2d(3, width, 4, stride=4)
    blocks = (Block(width) for _ in range(depth))
    return nn.Sequential(stem, nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)).eval()


def pruned(samples: int, width: int, depth: int, preset: str) -> tuple[float, float, float]:
    """Processor seconds of a prune and of a forward pass of its samples, and the peak in MiB before the prune."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, images = network(width, depth), torch.randn(samples, 3, _SIZE, _SIZE).split(16)
    torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),), strict=False)  # loaded once per process
    with torch.no_grad():
        for _ in range(2):
            started = time.process_time()
            for batch in images:
                model(batch)
            one = time.process_time() - started
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    started = time.process_time()
    snp.prune(model, images, target_macs=0.5, preset=preset, progress=False)
    return time.process_time() - started, one, before


def on_processes(count: int, preset: str) -> tuple[float, float]:
    """Seconds of the stages of a run on so many processes, and the peak in MiB of the first."""
    trainer = ["trainer=cpu"] if count == 1 else ["trainer=ddp_cpu", f"trainer.devices={count}"]
    options = ["data=digits", "dense.epochs=0", "finetune.epochs=0", "calibration.samples=512", "logger=none"]
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "run.py", *trainer, *options, f"prune.preset={preset}", f"hydra.run.dir={folder}"]
        subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        facts = json.loads((Path(folder) / "metrics.json").read_text())
    seconds = sum(facts[f"time/{stage}_s"] for stage in ("calibrate", "plan", "prune"))
    return seconds, facts["memory/peak_bytes"] / 2**20


def row_of(axis: str, value: int, preset: str) -> tuple[list[str], float, float]:
    """A row of the table, seconds, and memory in MiB."""
    if axis == "processes":
        seconds, peak = on_processes(value, preset)
        return [axis, str(value), f"{seconds:.2f}", "", f"{peak:.0f}", ""], seconds, peak
    (seconds, one, before), peak = in_own_process(pruned, *(BASE | {axis: value}).values(), preset)
    passes = f"{seconds / one:.0f}"
    return [axis, str(value), f"{seconds:.2f}", passes, f"{peak:.0f}", f"{peak - before:.0f}"], seconds, peak


def exponents(values: tuple[int, ...], found: list[float]) -> list[float]:
    """Growth from point to point: p where the measure grows as value ** p."""
    points = zip(pairwise(values), pairwise(found), strict=True)
    return [math.log(after / before) / math.log(larger / smaller) for (smaller, larger), (before, after) in points]


def draw(path: Path, found: dict[str, tuple[list[float], list[float]]]) -> None:
    """Seconds and memory beside each axis."""
    figure = Figure(figsize=(2.4 * len(found), 4.2), layout="constrained")
    axes = figure.subplots(2, len(found), squeeze=False)
    for column, (axis, measures) in enumerate(found.items()):
        for row, (measure, words) in enumerate(zip(measures, ("seconds", "peak MiB"), strict=True)):
            panel: Axes = axes[row][column]
            panel.plot(AXES[axis], measure, marker="o", color="#2a6f97")
            panel.set_xscale("log", base=2)
            panel.set_xticks(AXES[axis], [str(value) for value in AXES[axis]])
            panel.set_ylim(bottom=0)
            panel.spines[["top", "right"]].set_visible(False)
            panel.set_ylabel(words if column == 0 else "")
            panel.set_xlabel(axis if row else "")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    """All points of all axes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--axes", nargs="+", choices=tuple(AXES), default=tuple(AXES))
    parser.add_argument("--preset", default="best", choices=("paper", "quick", "best"))
    parser.add_argument("--out", type=Path, help="a figure: .svg or .png")
    options = parser.parse_args()
    rows, found, words = [], {}, []
    for axis in options.axes:
        measured = [row_of(axis, value, options.preset) for value in AXES[axis]]
        rows += [row for row, *_ in measured]
        found[axis] = [seconds for _, seconds, _ in measured], [peak for *_, peak in measured]
        grows = (" ".join(f"{power:.1f}" for power in exponents(AXES[axis], part)) for part in found[axis])
        words.append("{}: seconds {}; memory {}".format(axis, *grows))
    print_table(["axis", "value", "seconds", "forward passes", "peak MiB", "beyond what was there"], rows)
    print("exponents of growth from point to point: " + "; ".join(words))
    if options.out is not None:
        draw(options.out, found)
    print_provenance()


if __name__ == "__main__":
    main()
