"""Which networks are pruned, on which images, and to which shares of their MACs?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cifar_resnet56
import efficientnet_lite0
import small_vit
import torch
import torchvision
from harness import Batches, in_memory
from torch import nn
from training import train, trained

from snp import models
from snp.data.digits import Digits

__all__ = ["NETWORKS", "Network", "digits_network", "load"]


@dataclass(frozen=True, eq=False)
class Network:
    """A dense network in evaluation mode and its images.

    Attributes:
        model: the network.
        calibration: images and labels by seed; the labels are for peers that need them.
        test: images and labels to score on by seed, disjoint from those of calibration.
    """

    model: nn.Module
    calibration: Callable[[int], Batches]
    test: Callable[[int], Batches]


@dataclass(frozen=True)
class Setting:
    """How a network is looked at.

    Attributes:
        shares: of the whole network's MACs, for all rungs.
        more_shares: for main rungs only.
        about: the line above its tables.
        is_halved: every seed has test images of its own.
    """

    shares: tuple[float, ...]
    more_shares: tuple[float, ...]
    about: str
    is_halved: bool = False


NETWORKS = {
    "resnet56": Setting((0.476, 0.333), (), "ResNet-56, CIFAR-10 (JPEG copies), 1,024 calibration images"),
    "efficientnet_lite0": Setting(
        (0.8, 0.667),
        (0.5, 0.333),
        "EfficientNet-Lite0, 500 ImageNet images in halves of 250: calibrated on one, scored on the other",
        is_halved=True,
    ),
    "vit": Setting(
        (0.667, 0.5),
        (0.8, 0.333),
        "ViT of six blocks trained here on CIFAR-10 (JPEG copies), 1,024 calibration images",
    ),
    "resnet20_digits": Setting((), (0.8, 0.667, 0.5), "ResNet-20 trained here on digits, 1,024 calibration images"),
    "resnet50_digits": Setting((), (0.5, 0.3, 0.2), "ResNet-50 trained here on digits, 1,024 calibration images"),
}

_SAMPLES = 1024


def load(name: str, data: Path, cache: Path | None) -> Network:
    """A network of :data:`NETWORKS` with trained weights; what is trained here is kept in the folder ``cache``."""
    if name == "resnet56":
        return _of_cifar(cifar_resnet56.subject_at(data))
    if name == "vit":
        return _of_cifar(small_vit.subject_at(data, None if cache is None else cache / "small_vit.safetensors"))
    if name == "efficientnet_lite0":
        return _efficientnet(data)
    return digits_network(name.removesuffix("_digits"), cache)


def _of_cifar(subject: cifar_resnet56.Subject | small_vit.Subject) -> Network:
    return Network(subject.model, lambda seed: subject.calibration(_SAMPLES, seed), lambda seed: subject.test)


def _efficientnet(data: Path) -> Network:
    """Seeds 0 and 1 are the two directions of the first division into halves, 2 and 3 those of the second, ..."""
    divisions: dict[int, efficientnet_lite0.Subject] = {}

    def division(seed: int) -> efficientnet_lite0.Subject:
        if seed not in divisions:
            with tempfile.TemporaryDirectory() as folder:
                weights = efficientnet_lite0.write_checkpoint(Path(folder) / "weights.safetensors")
                divisions[seed] = efficientnet_lite0.subject_at(data, weights, seed)
        return divisions[seed]

    def half(seed: int, which: int) -> Batches:
        return division(seed // 2).halves[(seed + which) % 2]

    return Network(division(0).model, lambda seed: half(seed, 0), lambda seed: half(seed, 1))


_DIGITS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet20": (lambda: models.build("cifar_resnet", {"depth": 20}, num_classes=10), 8),
    "resnet50": (lambda: models.build("timm", {"model_name": "resnet50"}, num_classes=10), 6),
    "vgg16": (lambda: _vgg16(), 2),
}


def _vgg16() -> nn.Module:
    """The thirteen convolutions of VGG-16 with BatchNorm, and one linear layer, as is usual for images of 32 pixels."""
    features = torchvision.models.vgg16_bn().features
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def digits_network(name: str, cache: Path | None) -> Network:
    """A network trained on scikit-learn's digits at 32 pixels: ``resnet20``, ``resnet50`` or ``vgg16``."""
    build, epochs = _DIGITS[name]
    digits = Digits(image_size=32)
    digits.configure(32, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)
    torch.manual_seed(0)
    path = None if cache is None else cache / f"{name}_digits.safetensors"
    model = trained(build(), path, lambda network: train(network, digits, epochs=epochs, learning_rate=2e-3, seed=0))
    test = in_memory(digits.test_dataloader())
    return Network(model, lambda seed: in_memory(digits.calibration_dataloader(_SAMPLES, seed)), lambda seed: test)
