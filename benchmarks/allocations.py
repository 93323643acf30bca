"""What does it bring to judge whole allocations, beside damages of single cuts?  ResNet-56 on CIFAR-10, no training.

    python benchmarks/allocations.py --data PATH --seeds 0 1 2

Every row is a prune of its own from 1,024 calibration images, scored on all test images: top-1, and the divergence of
the prediction from the dense network's in nats per image, which separates finer. Needs ``cifar10/train.tar`` and
``test.tar`` in the data folder, and the checkpoint.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from cifar_resnet56 import Subject, add_subject, subject_at
from harness import Batches, accuracy, arguments_of, existing, print_provenance, print_table, spread
from torch import nn

import snp


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = arguments_of(__doc__.splitlines()[0])
    add_subject(parser)
    parser.add_argument("--judged", action="store_true", help="only the defaults, whole allocations judged")
    parser.add_argument("--target-macs", type=float, nargs="+", default=[0.476, 0.333], help="shares that are left")
    return parser.parse_args(words)


def divergence(dense: nn.Module, other: nn.Module, batches: Batches) -> float:
    """KL(dense, other) of the predictions, in nats per image."""
    with torch.inference_mode():
        pairs = ((dense(images).log_softmax(1), other(images).log_softmax(1)) for images, _ in batches)
        found = sum(float(F.kl_div(given, wanted, reduction="sum", log_target=True)) for wanted, given in pairs)
    return found / sum(len(labels) for _, labels in batches)


def measured(subject: Subject, options: argparse.Namespace, target: float, *, tilt: bool) -> tuple[str, ...]:
    """A row: every seed a prune."""
    scores, apart, tilts, seconds = list[float](), list[float](), list[str](), list[float]()
    for seed in options.seeds:
        batches, began = subject.calibration(options.samples, seed), time.process_time()
        result = snp.prune(subject.model, batches, target_macs=target, tilt=tilt, seed=seed, progress=False)
        seconds.append(time.process_time() - began)
        scores.append(accuracy(result.model, subject.test))
        apart.append(divergence(subject.model, result.model, subject.test))
        tilts.append(f"{result.plan.settings['tilted']:.2f}")
        print(f"{target:g} {tilt} seed {seed}: {scores[-1]:.2f} {apart[-1]:.4f} {tilts[-1]}", flush=True)
    name = f"{target:g} of the MACs, " + ("allocations judged whole" if tilt else "damages of single cuts")
    return name, spread(scores), spread(apart, 4), ", ".join(tilts), spread(seconds, 0)


def main() -> None:
    options = options_of()
    subject = subject_at(existing(options.data, "--data"), options.checkpoint)
    tilts = (True,) if options.judged else (False, True)
    rows = [measured(subject, options, target, tilt=tilt) for target in options.target_macs for tilt in tilts]
    print_table(("network", "top-1 %", "divergence", "tilts", "CPU s"), rows)
    print(f"ResNet-56, {options.samples} calibration images, seeds {', '.join(map(str, options.seeds))}, no training.")
    print_provenance()


if __name__ == "__main__":
    main()
