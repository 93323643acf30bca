"""What is left of ResNet-56 on CIFAR-10 at half of the MACs inside its blocks, without any fine-tuning?

The units inside the blocks are cut (the residual streams stay); with and without reconstruction, for several
calibration subsets. Needs ``cifar10/train.tar`` and ``test.tar`` in the data folder, and the checkpoint.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from harness import (
    FIT_NAMES,
    Batches,
    accuracy,
    add_fits,
    arguments_of,
    existing,
    in_memory,
    options_of_fit,
    print_provenance,
    print_table,
    spread,
)
from torch import Tensor, nn

import snp
from snp.data.cifar10 import Cifar10
from snp.graph import analyse
from snp.models import ModelSpec
from snp.settings import PruneSettings

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@dataclass(frozen=True, eq=False)
class Subject:
    """The dense network in evaluation mode, its data, and the test part in memory."""

    model: nn.Module
    data: Cifar10
    test: Batches

    def calibration(self, samples: int, seed: int) -> Batches:
        """Training images as they are shown in evaluation."""
        return in_memory(self.data.calibration_dataloader(samples, seed))


@dataclass(frozen=True)
class Outcome:
    """A pruned network's top-1 accuracy in percent, MACs and parameters."""

    acc1_percent: float
    macs: int
    params: int


def add_subject(parser: argparse.ArgumentParser) -> None:
    """Which weights, and how many calibration images of which seeds."""
    parser.add_argument("--checkpoint", type=Path, help="safetensors file, by default DATA/../models")
    parser.add_argument("--samples", type=int, default=1024, help="calibration images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the calibration images")


def subject_at(data: Path, checkpoint: Path | None = None, device: str = "cpu") -> Subject:
    """The network with its trained weights on a device, with the test part, and the images."""
    weights = existing(checkpoint or data.parent / "models" / "cifar10_resnet56.safetensors", "--checkpoint")
    spec = ModelSpec("cifar_resnet", "cifar_resnet56", {"depth": 56}, checkpoint=str(weights), normalize=IMAGENET)
    prepared = spec.prepare(10, 32, trains_from_scratch=True)
    images = Cifar10(str(existing(data / "cifar10", "--data")))
    images.configure(prepared.image_size, prepared.mean, prepared.std, prepared.interpolation, prepared.crop_fraction)
    test = [(one.to(device), labels.to(device)) for one, labels in in_memory(images.test_dataloader())]
    return Subject(prepared.model.eval().to(device), images, test)


def whole_network_share(model: nn.Module, example: Tensor, share_of_blocks: float) -> float:
    """The share of all MACs that is left when the layers that units inside blocks touch keep ``share_of_blocks``."""
    graph = analyse(model, example)
    macs = {name: count * model.get_parameter(name).numel() for name, count in graph.positions.items()}
    inside = {
        member.tensor for group in graph.groups if not group.is_stream for member in group.producers + group.consumers
    }
    total = graph.fixed_macs + sum(macs.values())
    return 1 - (1 - share_of_blocks) * sum(macs[name] for name in inside) / total


def outcome(subject: Subject, samples: int, seed: int, settings: PruneSettings) -> Outcome:
    """Prune with the library call and score on the whole test part."""
    result = snp.prune(subject.model, subject.calibration(samples, seed), settings)
    return Outcome(accuracy(result.model, subject.test), result.plan.macs["pruned"], result.plan.params["pruned"])


def settings_of(options: argparse.Namespace, target: float, seed: int, fit: str) -> PruneSettings:
    """What the command line asks for, with one of the fits of :data:`harness.FITS`."""
    return PruneSettings(
        target_macs=target,
        planner=options.planner,
        ordering=options.ordering,
        cut=options.cut,
        streams=options.streams,
        seed=seed,
        **options_of_fit(options, fit),
    )


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = arguments_of(__doc__.splitlines()[0])
    add_subject(parser)
    parser.add_argument("--block-macs", type=float, default=0.5, help="share of the MACs inside blocks that is left")
    parser.add_argument("--target-macs", type=float, help="share of all MACs that is left, instead of --block-macs")
    parser.add_argument("--ordering", default="zca")
    parser.add_argument("--cut", default="variance")
    parser.add_argument("--planner", default="snp")
    add_fits(parser)
    parser.add_argument("--streams", action="store_true", help="cut residual streams, too")
    return parser.parse_args(words)


def main() -> None:
    options = options_of()
    subject = subject_at(existing(options.data, "--data"), options.checkpoint)
    share = options.target_macs or whole_network_share(subject.model, subject.test[0][0][:2], options.block_macs)
    dense = outcome(subject, 2, 0, PruneSettings(target_units=1.0, cut="uniform"))
    rows = [["dense", f"{dense.acc1_percent:.2f}", f"{dense.macs / 1e6:.2f}", f"{dense.params / 1e6:.3f}"]]
    for fit in options.fits:
        found = [
            outcome(subject, options.samples, seed, settings_of(options, share, seed, fit)) for seed in options.seeds
        ]
        rows.append(
            [
                FIT_NAMES[fit],
                spread([one.acc1_percent for one in found]),
                f"{found[0].macs / 1e6:.2f}",
                f"{found[0].params / 1e6:.3f}",
            ]
        )
    print(
        f"\nResNet-56, CIFAR-10: {options.planner}, {options.ordering}/{options.cut}, {share:.4f} of all MACs asked for"
    )
    print_table(["network", "top-1 %", "M MACs", "M parameters"], rows)
    print(f"spread: mean (smallest to largest) over subsets of {options.samples} calibration images; MACs of the first")
    print_provenance()


if __name__ == "__main__":
    main()
