"""What are the residual networks for CIFAR of He et al. 2015, with shortcuts that have no parameters (option A)?

Three stages of 16, 32 and 64 channels, `(depth - 2) / 6` blocks each. Where a stage halves the image, its shortcut
takes every second pixel and pads the new channels with zeros. Parameter names: `conv1, bn1,
layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2}, linear`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

DEPTHS = (20, 32, 44, 56, 110)
STAGE_CHANNELS = (16, 32, 64)


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut: (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        # An int of the built architecture, not read off the layers: cutting units inside the block leaves it right.
        self.num_padded_channels = (out_channels - in_channels) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images in, images out; see the class for shapes."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        """The input itself, or every second pixel of it with zero channels before and behind."""
        if self.stride == 1:
            return x
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.num_padded_channels, self.num_padded_channels))


class CifarResNet(nn.Module):
    """ResNet of depth 6 n + 2: (N, 3, H, W) float images -> (N, num_classes) logits; any H, W from 4 up."""

    def __init__(self, depth: int, num_classes: int) -> None:
        super().__init__()
        num_blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, STAGE_CHANNELS[0], 3, padding=1, bias=False)  # (N, 16, H, W)
        self.bn1 = nn.BatchNorm2d(STAGE_CHANNELS[0])
        self.layer1 = _stage(STAGE_CHANNELS[0], STAGE_CHANNELS[0], num_blocks, stride=1)  # (N, 16, H, W)
        self.layer2 = _stage(STAGE_CHANNELS[0], STAGE_CHANNELS[1], num_blocks, stride=2)  # (N, 32, H/2, W/2)
        self.layer3 = _stage(STAGE_CHANNELS[1], STAGE_CHANNELS[2], num_blocks, stride=2)  # (N, 64, H/4, W/4)
        self.linear = nn.Linear(STAGE_CHANNELS[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images in, logits out; see the class for shapes."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: torch.Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def build(*, depth: int, num_classes: int, image_size: int | None = None) -> nn.Module:
    """A network with random weights, the same for the same torch seed.

    Args:
        depth: one of 20, 32, 44, 56, 110.
        num_classes: number of logits.
        image_size: not used: the network takes any size.

    Raises:
        ValueError: a depth that the paper does not have.
    """
    if depth not in DEPTHS:
        raise ValueError(f"model.arguments.depth={depth}: choose one of {', '.join(map(str, DEPTHS))}")
    return CifarResNet(depth, num_classes)


def preprocessing(model: nn.Module, image_size: int | None) -> dict[str, Any]:
    """Size, mean, std, interpolation and crop of the images the family is made for: 32 x 32, CIFAR-10's statistics."""
    return {
        "image_size": image_size or 32,
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2470, 0.2435, 0.2616),
        "interpolation": "bilinear",
        "crop_fraction": 1.0,
    }


def _stage(in_channels: int, out_channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    blocks = [Block(in_channels, out_channels, stride)]
    blocks += [Block(out_channels, out_channels, stride=1) for _ in range(num_blocks - 1)]
    return nn.Sequential(*blocks)
