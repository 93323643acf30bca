"""What does it bring to weigh whole residual blocks against units?  ResNet-56 on CIFAR-10, no training.

    python benchmarks/blocks.py --data PATH --seeds 0 1 2
    python benchmarks/blocks.py --data PATH --deit FILE --samples 256 --target-macs --target-latency 0.6

Every row is a prune of its own from 1,024 calibration images, scored on all test images: top-1, the divergence of the
prediction from the dense network's in nats per image, the blocks that went, and the time of a pass of 8 images beside
the dense network's, measured in turns on one thread. With ``--deit`` the network is DeiT-tiny. Needs
``cifar10/train.tar`` and ``test.tar`` in the data folder, and the checkpoint.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from allocations import divergence
from cifar_resnet56 import Subject, add_subject, subject_at
from harness import accuracy, arguments_of, existing, in_memory, print_provenance, print_table, spread
from known_networks import cifar10_at, deit_tiny

import snp
from snp.graph.batches import Batch
from snp.speed.layer_times import measured_share
from snp.speed.passes import Conditions


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = arguments_of(__doc__.splitlines()[0])
    add_subject(parser)
    parser.add_argument("--deit", type=Path, help="weights of DeiT-tiny for 32 pixels in patches of 4, safetensors")
    parser.add_argument("--structures", nargs="+", default=["ffn", "ffn,blocks"], help="a row each")
    parser.add_argument("--target-macs", type=float, nargs="*", default=[0.476, 0.333], help="shares that are left")
    parser.add_argument("--target-latency", type=float, nargs="*", default=[], help="shares of the time that are left")
    return parser.parse_args(words)


def deit_at(data: Path, weights: Path) -> Subject:
    """DeiT-tiny and the images as it was trained on them."""
    images = cifar10_at(data, 32)
    return Subject(deit_tiny(weights), images, in_memory(images.test_dataloader()))


def measured(
    subject: Subject, options: argparse.Namespace, kind: str, target: float, structures: tuple[str, ...]
) -> list[str]:
    """A row: every seed a prune."""
    asked = {"latency_batch": 8, "latency_threads": 1} if kind == "latency" else {}
    scores, apart, times, gone, seconds = list[float](), list[float](), list[float](), list[str](), list[float]()
    for seed in options.seeds:
        batches, began = subject.calibration(options.samples, seed), time.process_time()
        result = snp.prune(
            subject.model,
            batches,
            structures=structures,
            seed=seed,
            progress=False,
            **{f"target_{kind}": target},
            **asked,
        )
        seconds.append(time.process_time() - began)
        scores.append(accuracy(result.model, subject.test))
        apart.append(divergence(subject.model, result.model, subject.test))
        example = Batch.of(batches[0][0])
        times.append(100 * measured_share(subject.model, result.model, example, Conditions(8, 1))["own_share"])
        gone.append(" ".join(block.name for block in result.plan.removed_blocks) or "none")
        print(
            f"{kind} {target:g} {structures} seed {seed}: {scores[-1]:.2f} {apart[-1]:.4f} {times[-1]:.1f} {gone[-1]}",
            flush=True,
        )
    name = f"{target:g} of the {'MACs' if kind == 'macs' else 'time'}, " + (
        "units and blocks" if "blocks" in structures else "units"
    )
    return [name, spread(scores), spread(apart, 4), spread(times, 1), "; ".join(gone), spread(seconds, 0)]


def main() -> None:
    options = options_of()
    data = existing(options.data, "--data")
    subject = deit_at(data, options.deit) if options.deit else subject_at(data, options.checkpoint)
    targets = [("macs", share) for share in options.target_macs]
    targets += [("latency", share) for share in options.target_latency]
    structures = [tuple(names.split(",")) for names in options.structures]
    rows = [measured(subject, options, *target, names) for target in targets for names in structures]
    print_table(("network", "top-1 %", "divergence", "time %", "blocks that went", "CPU s"), rows)
    name, seeds = "DeiT-tiny" if options.deit else "ResNet-56", ", ".join(map(str, options.seeds))
    print(f"{name}, {options.samples} calibration images, seeds {seeds}, no training.")
    print_provenance()


if __name__ == "__main__":
    main()
