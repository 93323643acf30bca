"""What does the pruning step cost beside that of others, and what is left of the accuracy without any training?

    python benchmarks/cost_against_field.py --data FOLDER --samples 128 --images 2000

ResNet-56 on CIFAR-10, the units inside its blocks, the same share of the MACs for all. The unit is a forward pass of
one image, in processor time of one thread: what a method takes divided by what the dense network takes for an image. A
backward pass counts as two forward passes where it is not measured.

Torch-Pruning's share of its own search for a ratio is one of the prunings it tried. TPP (Trainability Preserving
Pruning, arXiv 2207.12534) prunes while it trains; it is not run here: its passes follow from its published schedule.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from cifar_resnet56 import Subject, subject_at, whole_network_share
from harness import Batches, accuracy, arguments_of, existing, of_extra, print_provenance, print_table
from torch import nn

import snp
from snp.speed.network import macs

# Iterations of forward and backward passes and images in a batch, from the paper's schedules.
TPP = {"TPP, ResNet-56 on CIFAR-10": (110_000, 128), "TPP, ResNet-50 on ImageNet": (90_000, 256)}
PASSES_PER_ITERATION = 3  # one forward, and a backward pass of about two
OURS = {
    "snp, the paper's form": {"preset": "paper"},
    "snp, quick": {"preset": "quick"},
    "snp, defaults": {},
    "OSSCAR-style (planner osscar, joint fit)": {"planner": "osscar", "calibration": "joint", "conv_gram": "channel"},
}
THEIRS = {"Torch-Pruning, Taylor": "taylor", "Torch-Pruning, Hessian": "hessian"}


@dataclass(frozen=True)
class Cost:
    """What a method took, in processor seconds, and what it left."""

    seconds: float
    acc1_percent: float
    share: float


def scheduled_passes(iterations: int, batch_size: int) -> int:
    """Forward passes of single images that a training schedule stands for."""
    return iterations * batch_size * PASSES_PER_ITERATION


def seconds_of(work: Callable[[], object]) -> float:
    """Processor seconds of one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def of_ours(model: nn.Module, calibration: Batches, test: Batches, share: float, settings: dict[str, object]) -> Cost:
    """One library call."""
    found: list[snp.PruneResult] = []
    asked = {"target_macs": share, "progress": False, **settings}
    took = seconds_of(lambda: found.append(snp.prune(model, calibration, **asked)))
    plan = found[0].plan
    return Cost(took, accuracy(found[0].model, test), plan.macs["pruned"] / plan.macs["dense"])


def of_theirs(model: nn.Module, calibration: Batches, test: Batches, share: float, criterion: str) -> Cost:
    """Gradients, and one of the prunings of a search for the ratio."""
    with of_extra():
        from peers.torchpruning import NUM_TRIED, gradients_for, ignored_layers, prune_to_share

    example, ignored = test[0][0][:1], ignored_layers(model, test[0][0][:1], "inside")
    gradients, small = {}, []
    took = seconds_of(lambda: gradients.update(gradients_for(model, criterion, calibration)))
    searched = seconds_of(lambda: small.append(prune_to_share(model, example, criterion, ignored, gradients, share)))
    return Cost(took + searched / NUM_TRIED, accuracy(small[0], test), macs(small[0], example) / macs(model, example))


def measured(subject: Subject, calibration: Batches, test: Batches, share: float, only: list[str]) -> dict[str, Cost]:
    """Every method once."""
    found: dict[str, Cost] = {}
    for name, settings in OURS.items():
        if name in only:
            found[name] = of_ours(subject.model, calibration, test, share, settings)
    for name, criterion in THEIRS.items():
        if name in only:
            found[name] = of_theirs(subject.model, calibration, test, share, criterion)
    return found


def first_images(batches: Batches, count: int) -> Batches:
    """The first images, in batches."""
    images, labels = (torch.cat(parts)[:count] for parts in zip(*batches, strict=True))
    return list(zip(images.split(128), labels.split(128), strict=True))


def options_of() -> argparse.Namespace:
    """The command line."""
    parser = arguments_of(__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="safetensors file, by default DATA/../models")
    parser.add_argument("--block-macs", type=float, default=0.5, help="share of the MACs inside blocks that is left")
    parser.add_argument("--samples", type=int, default=128, help="calibration images")
    parser.add_argument("--images", type=int, default=2000, help="test images that are scored")
    parser.add_argument("--seed", type=int, default=0, help="of the calibration subset")
    parser.add_argument("--only", nargs="+", default=[*OURS, *THEIRS], choices=[*OURS, *THEIRS])
    return parser.parse_args()


def main() -> None:
    """All methods between forward passes."""
    options = options_of()
    torch.set_num_threads(1)
    subject = subject_at(existing(options.data, "--data"), options.checkpoint)
    calibration, test = subject.calibration(options.samples, options.seed), first_images(subject.test, options.images)
    share = whole_network_share(subject.model, test[0][0][:2], options.block_macs)
    torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),), strict=False)  # loaded once per process
    dense = accuracy(subject.model, test)
    passes = [seconds_of(lambda: accuracy(subject.model, calibration)) for _ in range(3)]
    found = measured(subject, calibration, test, share, options.only)
    passes += [seconds_of(lambda: accuracy(subject.model, calibration)) for _ in range(3)]
    one = statistics.median(passes) / options.samples
    rows = [
        [name, f"{cost.seconds:.1f}", f"{cost.seconds / one:,.0f}", f"{cost.acc1_percent:.1f}", f"{cost.share:.3f}"]
        for name, cost in found.items()
    ]
    rows += [[name, "", f"{scheduled_passes(*schedule):,}", "trained", ""] for name, schedule in TPP.items()]
    print(f"ResNet-56, CIFAR-10: {options.samples} calibration images, the first {options.images} test images")
    print(f"dense: top-1 {dense:.1f} %; a forward pass of one image takes {1000 * one:.2f} ms")
    print_table(["method", "processor s", "forward passes of one image", "top-1 %", "MACs left"], rows)
    print_provenance()


if __name__ == "__main__":
    main()
