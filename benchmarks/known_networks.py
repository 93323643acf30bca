"""What is left of networks that people know, by SNP and by its peers, from the same calibration samples, untrained?

``deit_tiny``: DeiT-tiny on the CIFAR-10 copies
(``--deit``, weights for images of 32 pixels in patches of 4), a share of its feed-forward layers, accuracy.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from harness import Batches, accuracy, arguments_of, existing, in_memory, print_provenance, print_table
from opt_perplexity import METHODS, Bench
from safetensors.torch import load_file
from torch import nn

from snp import models
from snp.data.cifar10 import Cifar10

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def rows_of(
    bench: Bench, options: argparse.Namespace, score: Callable[[nn.Module], float], dense: float, of_all: float = 1.0
) -> list[list[str]]:
    """A row per method, a column per share removed, beside each score its ratio to the dense network's.

    Args:
        bench: the network.
        options: methods and shares.
        score: of a network.
        dense: score of the dense one.
        of_all: the parameters that shares are of, as a share of the parameters outside embeddings.
    """
    rows = []
    for method in options.methods:
        found = []
        for removed in options.removed:
            started = time.process_time()
            value = score(bench.pruned(method, target_params=1 - removed * of_all))
            found.append(f"{value:.2f} ({value / dense:.3f})")
            print(f"{removed:.0%} {method}: {found[-1]}, {time.process_time() - started:.0f} s", file=sys.stderr)
        rows.append([method, *found])
    return rows


def spread_over(batches: Batches, count: int) -> Batches:
    """About so many samples, evenly spread: folders lie one class after the other."""
    pixels, labels = torch.cat([pixels for pixels, _ in batches]), torch.cat([labels for _, labels in batches])
    step = max(1, len(labels) // count)
    return list(zip(pixels[::step].split(128), labels[::step].split(128), strict=True))


def of_deit_tiny(options: argparse.Namespace) -> None:
    """Accuracy."""
    images = Cifar10(str(existing(options.data, "--data") / "cifar10"))
    images.configure(32, _IMAGENET["mean"], _IMAGENET["std"], "bilinear", 1.0)
    arguments = {"model_name": "deit_tiny_patch16_224", "img_size": 32, "patch_size": 4}
    model = models.build("timm", arguments, num_classes=10).eval()
    weights = load_file(existing(options.deit, "--deit"))
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    test = spread_over(in_memory(images.test_dataloader()), options.images)
    batches = [pixels for pixels, _ in images.calibration_dataloader(options.samples, options.seed)]

    def score(network: nn.Module) -> float:
        return accuracy(network, test)

    dense = score(model)
    hidden = sum(parameter.numel() for name, parameter in model.named_parameters() if ".mlp." in name)
    of_all = hidden / sum(parameter.numel() for parameter in model.parameters())
    rows = rows_of(Bench(model, batches, ("ffn",)), options, score, dense, of_all)
    print(f"\nDeiT-tiny on the CIFAR-10 copies: accuracy in percent (share of dense {dense:.2f}) with a share of the")
    print(f"feed-forward layers' parameters removed, {of_all:.0%} of all;")
    print(f"{options.samples} calibration images, {sum(len(labels) for _, labels in test)} test images")
    print_table(["method", *(f"{removed:.0%}" for removed in options.removed)], rows)


NETWORKS = {"deit_tiny": of_deit_tiny}


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = arguments_of(__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--removed", type=float, nargs="+", default=[0.2, 0.5], help="shares")
    parser.add_argument("--samples", type=int, default=128, help="calibration images")
    parser.add_argument("--images", type=int, default=5000, help="test images")
    parser.add_argument("--deit", type=Path, help="weights of DeiT-tiny, safetensors")
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
