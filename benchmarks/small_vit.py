"""Which vision transformer can be trained on the CIFAR-10 copies within minutes on one core?

Six blocks of width 96 on 64 patches of 4 x 4 pixels, three heads; built by timm, so an ordinary ViT to everything else.
``python benchmarks/small_vit.py --data PATH --out FILE.safetensors`` trains it and prints its accuracy;
other benchmarks take it from :func:`subject_at`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from cifar_resnet56 import Subject
from harness import accuracy, arguments_of, existing, in_memory, print_provenance, print_table
from torch import nn
from training import train, trained

from snp import models
from snp.data.cifar10 import Cifar10

# Arguments of snp.models.build("timm", ...): width and depth are ours, the architecture is timm's.
ARCHITECTURE = {
    "model_name": "vit_tiny_patch16_224",
    "img_size": 32,
    "patch_size": 4,
    "embed_dim": 96,
    "depth": 6,
    "num_heads": 3,
}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
EPOCHS = 8
LEARNING_RATE = 2e-3


def subject_at(data: Path, checkpoint: Path | None = None, epochs: int = EPOCHS, seed: int = 0) -> Subject:
    """The network, trained now, or before if its weights are in the file ``checkpoint``, and the images."""
    images = Cifar10(str(existing(data / "cifar10", "--data")))
    images.configure(32, HALF["mean"], HALF["std"], "bilinear", 1.0)
    torch.manual_seed(seed)
    model = models.build("timm", ARCHITECTURE, num_classes=10)

    def training(network: nn.Module) -> None:
        train(network, images, epochs=epochs, learning_rate=LEARNING_RATE, seed=seed)

    return Subject(trained(model, checkpoint, training), images, in_memory(images.test_dataloader()))


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = arguments_of(__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="keep the weights in this file, or take them from there")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation")
    return parser.parse_args(words)


def main() -> None:
    options = options_of()
    subject = subject_at(existing(options.data, "--data"), options.out, options.epochs, options.seed)
    params = sum(parameter.numel() for parameter in subject.model.parameters())
    row = [f"{accuracy(subject.model, subject.test):.2f}", f"{params / 1e6:.3f}", str(options.epochs)]
    print_table(["network", "top-1 %", "M parameters", "epochs"], [["small ViT", *row]])
    print_provenance()


if __name__ == "__main__":
    main()
