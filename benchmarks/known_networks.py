"""What is left of networks that people know, by SNP and by its peers, from the same calibration samples, untrained?

``deit_tiny``: DeiT-tiny on the CIFAR-10 copies (``--deit``, weights for images of 32 pixels in patches of 4), accuracy.
``dinov2``: DINOv2 ViT-S/14 (``--dino``, from ``real_weights/dinov2.py``) on the same copies at 98 pixels; how well the
nearest training images by its features name the class of a test image, and the cosine of features to the dense ones.
Of these a share of the feed-forward layers' parameters goes; with ``--structures ffn,vo,qk`` so many, from attention,
too. ``hed``: edges by the features of VGG-16 (``--hed``, from ``real_weights/hed.py``) on pictures of the ImageNet
sample, a share of the MACs, the error of the map.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from against_dense import MapError, Neighbours
from harness import Batches, accuracy, arguments_of, existing, in_memory, print_provenance, print_table
from opt_perplexity import METHODS as OF_LANGUAGE
from opt_perplexity import SLICED, TUNED, Bench
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from snp import models
from snp.data.base import ImageData
from snp.data.cifar10 import Cifar10
from snp.data.image_folder import ImageFolder
from snp.graph.batches import Batch
from snp.measure.outputs import objective_of

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
METHODS = {**OF_LANGUAGE, "SNP, the paper's form": {"preset": "paper"}}
del METHODS[SLICED], METHODS[TUNED]  # of language models; no row is trained
DINO_SIZE, HED_SIZE = 98, 128


def rows_of(
    model: nn.Module,
    batches: list[Tensor],
    options: argparse.Namespace,
    target: Callable[[float], dict[str, float]],
    cell: Callable[[nn.Module], str],
) -> list[list[str]]:
    """A row per set of structures and method, a column per share removed.

    Args:
        model: dense.
        batches: calibration samples.
        options: structures, methods and shares.
        target: of a share that is removed, as an option of :func:`snp.prune`.
        cell: what stands in the table of a pruned network.
    """
    rows = []
    for structures in options.structures:
        bench = Bench(model, batches, structures.split(","), options.seed)
        for method in options.methods:
            row = [method if len(options.structures) == 1 else f"{method}: {structures.replace(',', ', ')}"]
            for removed in options.removed:
                started = time.process_time()
                small = bench.pruned(method, **METHODS[method], **target(removed))
                seconds = time.process_time() - started
                row.append(cell(small))
                print(f"{removed:.0%} {row[0]}: {row[-1]}, pruned in {seconds:.0f} s", file=sys.stderr, flush=True)
            rows.append(row)
    return rows


def of_feed_forward(model: nn.Module) -> Callable[[float], dict[str, float]]:
    """The target that removes a share of the parameters of a vision transformer's feed-forward layers."""
    return lambda removed: {"target_params": 1 - removed * feed_forward_share(model)}


def feed_forward_share(model: nn.Module) -> float:
    """Of a vision transformer's parameters."""
    hidden = sum(parameter.numel() for name, parameter in model.named_parameters() if ".mlp." in name)
    return hidden / sum(parameter.numel() for parameter in model.parameters())


def spread_over(images: ImageData, part: str, count: int) -> Batches:
    """About so many samples of a part, evenly spread: folders lie one class after the other."""
    samples = images.seen(part, training=False)
    chosen = Subset(samples, range(0, len(samples), max(1, len(samples) // count)))
    return in_memory(DataLoader(chosen, batch_size=128))


def num_of(batches: Batches) -> int:
    """Samples."""
    return sum(len(labels) for _, labels in batches)


def cifar10_at(data: Path, size: int) -> Cifar10:
    """The copies at a size."""
    images = Cifar10(str(data / "cifar10"), image_size=size)
    images.configure(size, _IMAGENET["mean"], _IMAGENET["std"], "bicubic" if size != 32 else "bilinear", 1.0)
    return images


def cifar10(options: argparse.Namespace, size: int) -> tuple[Cifar10, list[Tensor]]:
    """The copies at a size, and calibration batches of them without labels."""
    images = cifar10_at(existing(options.data, "--data"), size)
    return images, [pixels for pixels, _ in images.calibration_dataloader(options.samples, options.seed)]


def deit_tiny(weights: Path) -> nn.Module:
    """In evaluation mode."""
    arguments = {"model_name": "deit_tiny_patch16_224", "img_size": 32, "patch_size": 4}
    model = models.build("timm", arguments, num_classes=10).eval()
    tensors = load_file(existing(weights, "--deit"))
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model


def of_deit_tiny(options: argparse.Namespace) -> None:
    """Accuracy."""
    images, batches = cifar10(options, 32)
    model = deit_tiny(options.deit)
    test = spread_over(images, "test", options.images)
    dense = accuracy(model, test)

    def cell(network: nn.Module) -> str:
        found = accuracy(network, test)
        return f"{found:.2f} ({found / dense:.3f})"

    rows = rows_of(model, batches, options, of_feed_forward(model), cell)
    print(f"\nDeiT-tiny on the CIFAR-10 copies: accuracy in percent (share of dense {dense:.2f})")
    print_rows(rows, model, options, num_of(test))


def print_rows(rows: list[list[str]], model: nn.Module, options: argparse.Namespace, num_test: int) -> None:
    """The table under what its columns say."""
    of_all = feed_forward_share(model)
    print(f"with a share of the feed-forward layers' parameters removed, which are {of_all:.0%} of all;")
    print(f"{options.samples} calibration images, {num_test} test images")
    print_table(["method", *(f"{removed:.0%}" for removed in options.removed)], rows)


def of_dinov2(options: argparse.Namespace) -> None:
    """Nearest neighbours by the class token, and its cosine to the dense network's."""
    from real_weights import dinov2

    images, batches = cifar10(options, DINO_SIZE)
    model = dinov2.network(load_file(existing(options.dino, "--dino")), DINO_SIZE)
    test = spread_over(images, "test", options.images)
    neighbours = Neighbours(spread_over(images, "train", options.bank), test, model)
    print(f"objective: {objective_of(model, Batch.all(batches))}; dense {neighbours.dense:.1f}", file=sys.stderr)

    def cell(network: nn.Module) -> str:
        percent, cosine = neighbours.of(network)
        return f"{percent:.1f} ({percent / neighbours.dense:.3f}), {cosine:.3f}"

    rows = rows_of(model, batches, options, of_feed_forward(model), cell)
    print(
        "\nDINOv2 ViT-S/14, tuned for saliency, on the CIFAR-10 copies at 98 pixels: accuracy in percent of 20 nearest"
    )
    print(
        f"neighbours among {options.bank} training images (share of dense {neighbours.dense:.1f}), cosine of features"
    )
    print_rows(rows, model, options, num_of(test))


def of_hed(options: argparse.Namespace) -> None:
    """Squared error of the map of edges."""
    from real_weights import hed

    root = existing(options.data, "--data") / "imagenet_sample"
    images = ImageFolder(str(root), num_workers=0, test_fraction=0.5, val_fraction=0.0)
    images.configure(HED_SIZE, hed.MEAN, hed.STD, "bilinear", 1.0)
    batches = [pixels for pixels, _ in images.calibration_dataloader(options.samples, options.seed)]
    model = hed.network(existing(options.hed, "--hed"))
    test = spread_over(images, "test", options.images)
    error = MapError(test, model)
    print(f"objective: {objective_of(model, Batch.all(batches))}", file=sys.stderr)
    rows = rows_of(
        model, batches, options, lambda removed: {"target_macs": 1 - removed}, lambda small: f"{error.of(small):.2g}"
    )
    print(f"\nHED, on VGG-16, pictures of ImageNet at {HED_SIZE} pixels: squared error of the map of edges beside its")
    print("variance, with a share of the MACs removed;")
    print(f"{options.samples} calibration pictures, {num_of(test)} test pictures")
    print_table(["method", *(f"{removed:.0%}" for removed in options.removed)], rows)


NETWORKS = {"deit_tiny": of_deit_tiny, "dinov2": of_dinov2, "hed": of_hed}


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = arguments_of(__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, help="those whose weights are given, if not set")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--removed", type=float, nargs="+", default=[0.2, 0.5], help="shares")
    parser.add_argument("--samples", type=int, default=128, help="calibration images")
    parser.add_argument("--images", type=int, default=5000, help="test images")
    parser.add_argument("--bank", type=int, default=2000, help="training images that are neighbours of dinov2")
    parser.add_argument("--deit", type=Path, help="weights of DeiT-tiny, safetensors")
    parser.add_argument("--dino", type=Path, help="weights of DINOv2 ViT-S/14, safetensors")
    parser.add_argument("--hed", type=Path, help="weights of HED, safetensors")
    parser.add_argument("--structures", nargs="+", default=["ffn"], help="sets of structures to cut, with commas")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of calibration samples")
    options = parser.parse_args(words)
    given = {"deit_tiny": options.deit, "dinov2": options.dino, "hed": options.hed}
    options.networks = options.networks or [name for name, path in given.items() if path is not None]
    if not options.networks:
        parser.error("give the weights of a network: --deit, --dino or --hed FILE")
    return options


def main() -> None:
    options = options_of()
    torch.manual_seed(options.seed)
    for name in options.networks:
        NETWORKS[name](options)
    print_provenance()


if __name__ == "__main__":
    main()
