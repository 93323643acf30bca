"""Does a Gram matrix of some positions of large maps choose and fit as well as one of all?

    python benchmarks/sampled_positions.py --data FOLDER --samples 64 --seeds 0 1 2

ResNet-56 on CIFAR-10 in the paper's form, without training, for several calibration subsets: top-1 and the units that
both plans keep. Maps have 1,024, 256 and 64 positions, of which 64 are sampled.
"""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import torch
from cifar_resnet56 import Subject, subject_at, whole_network_share
from cost_against_field import first_images
from harness import Batches, accuracy, arguments_of, existing, print_provenance, print_table, spread

import snp
from snp.measure import readers

_ALL = 2**31


def pruned(subject: Subject, samples: int, seed: int, share: float, test: Batches) -> tuple[float, dict[str, set[int]]]:
    """Top-1 in percent and the units kept by group."""
    settings = {"preset": "paper", "target_macs": share, "seed": seed}
    result = snp.prune(subject.model, subject.calibration(samples, seed), progress=False, **settings)
    return accuracy(result.model, test), {group.group.name: set(group.kept.tolist()) for group in result.plan.groups}


def main() -> None:
    """With some positions and with all, on the same images."""
    parser = arguments_of(__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="safetensors file, by default DATA/../models")
    parser.add_argument("--samples", type=int, default=64, help="calibration images")
    parser.add_argument("--images", type=int, default=1000, help="test images that are scored")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject = subject_at(existing(options.data, "--data"), options.checkpoint)
    test = first_images(subject.test, options.images)
    share = whole_network_share(subject.model, test[0][0][:2], 0.5)
    rows, found = [], []
    for seed in options.seeds:
        some, units = pruned(subject, options.samples, seed, share, test)
        with patch.object(readers, "num_sampled", lambda _: _ALL):
            every, others = pruned(subject, options.samples, seed, share, test)
        common = sum(len(units[name] & kept) for name, kept in others.items())
        found.append((some, every))
        rows.append([str(seed), f"{some:.1f}", f"{every:.1f}", f"{common} of {sum(map(len, others.values()))}"])
    parts = [spread(column, 1) for column in zip(*found, strict=True)]
    print(f"ResNet-56, CIFAR-10, paper's form, {options.samples} calibration images, {options.images} test images")
    print_table(["seed", "some positions", "all positions", "units in common"], [*rows, ["all", *parts, ""]])
    print_provenance()


if __name__ == "__main__":
    main()
