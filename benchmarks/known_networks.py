"""What is left of networks that people know, by SNP and by its peers, from the same calibration samples, untrained?

``deit_tiny``: DeiT-tiny on the CIFAR-10 copies (``--deit``, weights for images of 32 pixels in patches of 4), accuracy.
``dinov2``: DINOv2 ViT-S/14 (``--dino``, from ``real_weights/dinov2.py``) on the same copies at 98 pixels; how well the
nearest training images by its features name the class of a test image, and the cosine of features to the dense ones.
A share of the feed-forward layers' parameters goes; with ``--structures ffn,vo,qk`` so many, from attention, too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from harness import Batches, accuracy, arguments_of, existing, in_memory, print_provenance, print_table
from opt_perplexity import MEANS_FOLDED, METHODS, Bench
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

import snp
from snp import models
from snp.data.cifar10 import Cifar10
from snp.graph.batches import Batch
from snp.measure.outputs import objective_of

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# The protocol of DINO: nearest neighbours by the cosine of features, weighed by exp(cosine / temperature).
NUM_NEIGHBOURS, TEMPERATURE = 20, 0.07
DINO_SIZE = 98


def rows_of(
    model: nn.Module, batches: list[Tensor], options: argparse.Namespace, cell: Callable[[nn.Module], str]
) -> list[list[str]]:
    """A row per set of structures and method, a column per share of the feed-forward layers' parameters removed.

    Args:
        model: dense.
        batches: calibration samples.
        options: structures, methods and shares.
        cell: what stands in the table of a pruned network.
    """
    rows = []
    of_all = feed_forward_share(model)
    for structures in options.structures:
        bench = Bench(model, batches, structures.split(","))
        for method in options.methods:
            row = [method if len(options.structures) == 1 else f"{method}: {structures.replace(',', ', ')}"]
            for removed in options.removed:
                started = time.process_time()
                target = 1 - removed * of_all
                if method in MEANS_FOLDED:
                    small = bench.pruned(method, target_params=target)
                else:  # as anybody calls it, with all that the library does on its own
                    options_of_method = {"structures": bench.structures, "seed": options.seed, **METHODS[method]}
                    small = snp.prune(model, batches, target_params=target, **options_of_method).model
                seconds = time.process_time() - started
                row.append(cell(small))
                print(f"{removed:.0%} {row[0]}: {row[-1]}, pruned in {seconds:.0f} s", file=sys.stderr, flush=True)
            rows.append(row)
    return rows


def feed_forward_share(model: nn.Module) -> float:
    """Of a vision transformer's parameters."""
    hidden = sum(parameter.numel() for name, parameter in model.named_parameters() if ".mlp." in name)
    return hidden / sum(parameter.numel() for parameter in model.parameters())


def spread_over(images: Cifar10, part: str, count: int) -> Batches:
    """About so many samples of a part, evenly spread: folders lie one class after the other."""
    samples = images.seen(part, training=False)
    chosen = Subset(samples, range(0, len(samples), max(1, len(samples) // count)))
    return in_memory(DataLoader(chosen, batch_size=128))


def cifar10(options: argparse.Namespace, size: int) -> tuple[Cifar10, list[Tensor]]:
    """The copies at a size, and calibration batches of them without labels."""
    images = Cifar10(str(existing(options.data, "--data") / "cifar10"), image_size=size)
    images.configure(size, _IMAGENET["mean"], _IMAGENET["std"], "bicubic" if size != 32 else "bilinear", 1.0)
    return images, [pixels for pixels, _ in images.calibration_dataloader(options.samples, options.seed)]


def of_deit_tiny(options: argparse.Namespace) -> None:
    """Accuracy."""
    images, batches = cifar10(options, 32)
    arguments = {"model_name": "deit_tiny_patch16_224", "img_size": 32, "patch_size": 4}
    model = models.build("timm", arguments, num_classes=10).eval()
    weights = load_file(existing(options.deit, "--deit"))
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    test = spread_over(images, "test", options.images)
    dense = accuracy(model, test)

    def cell(network: nn.Module) -> str:
        found = accuracy(network, test)
        return f"{found:.2f} ({found / dense:.3f})"

    rows = rows_of(model, batches, options, cell)
    print(f"\nDeiT-tiny on the CIFAR-10 copies: accuracy in percent (share of dense {dense:.2f})")
    print_rows(rows, model, options, sum(len(labels) for _, labels in test))


def print_rows(rows: list[list[str]], model: nn.Module, options: argparse.Namespace, num_test: int) -> None:
    """The table under what its columns say."""
    of_all = feed_forward_share(model)
    print(f"with a share of the feed-forward layers' parameters removed, which are {of_all:.0%} of all;")
    print(f"{options.samples} calibration images, {num_test} test images")
    print_table(["method", *(f"{removed:.0%}" for removed in options.removed)], rows)


class Neighbours:
    """Do the nearest images of a bank name the class of a test image, by the features of one network?

    Args:
        bank: images whose classes are known.
        test: images whose classes are asked for.
        dense: the network that features are compared with.
    """

    def __init__(self, bank: Batches, test: Batches, dense: nn.Module) -> None:
        self._bank, self._test = bank, test
        self._wanted = features(dense, test)
        self.dense = self._percent(features(dense, bank), self._wanted)

    def of(self, network: nn.Module) -> tuple[float, float]:
        """Accuracy in percent, and mean cosine of the test images' features to the dense network's."""
        found = features(network, self._test)
        cosine = float(F.cosine_similarity(found, self._wanted).mean())
        return self._percent(features(network, self._bank), found), cosine

    def _percent(self, bank: Tensor, test: Tensor) -> float:
        held, asked = (torch.cat([labels for _, labels in batches]) for batches in (self._bank, self._test))
        return 100 * float((nearest_class(bank, held, test) == asked).double().mean())


def nearest_class(bank: Tensor, labels: Tensor, test: Tensor) -> Tensor:
    """The class of every test row that the nearest rows of the bank vote for, as DINO (arXiv 2104.14294) does it.

    Args:
        bank: features [B, width], at least 20 rows.
        labels: their classes, int64 [B].
        test: features [T, width].

    Returns:
        Classes, int64 [T].
    """
    cosines, places = (F.normalize(test) @ F.normalize(bank).T).topk(NUM_NEIGHBOURS)
    votes = torch.zeros(len(test), int(labels.max()) + 1)
    return votes.scatter_add_(1, labels[places], (cosines / TEMPERATURE).exp()).argmax(dim=1)


def features(network: nn.Module, batches: Batches) -> Tensor:
    """What a network gives out for images, [N, width]."""
    with torch.inference_mode():
        return torch.cat(
            [network(pixels[start : start + 16]) for pixels, _ in batches for start in range(0, len(pixels), 16)]
        )


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

    rows = rows_of(model, batches, options, cell)
    print(
        "\nDINOv2 ViT-S/14, tuned for saliency, on the CIFAR-10 copies at 98 pixels: accuracy in percent of 20 nearest"
    )
    print(
        f"neighbours among {options.bank} training images (share of dense {neighbours.dense:.1f}), cosine of features"
    )
    print_rows(rows, model, options, sum(len(labels) for _, labels in test))


NETWORKS = {"deit_tiny": of_deit_tiny, "dinov2": of_dinov2}


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = arguments_of(__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--removed", type=float, nargs="+", default=[0.2, 0.5], help="shares")
    parser.add_argument("--samples", type=int, default=128, help="calibration images")
    parser.add_argument("--images", type=int, default=5000, help="test images")
    parser.add_argument("--bank", type=int, default=2000, help="training images that are neighbours of dinov2")
    parser.add_argument("--deit", type=Path, help="weights of DeiT-tiny, safetensors")
    parser.add_argument("--dino", type=Path, help="weights of DINOv2 ViT-S/14, safetensors")
    parser.add_argument("--structures", nargs="+", default=["ffn"], help="sets of structures to cut, with commas")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of calibration samples")
    return parser.parse_args(words)


def main() -> None:
    options = options_of()
    torch.manual_seed(options.seed)
    for name in options.networks:
        NETWORKS[name](options)
    print_provenance()


if __name__ == "__main__":
    main()
