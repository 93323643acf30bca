"""Networks written here after families that ship with no library: detectors, sound, decoders, sequences."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BUILDERS"]


def _convolution(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.SiLU())


class Bottleneck(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(width, width, 3), _convolution(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


class C2f(nn.Module):
    """Splits its channels, runs half of them through bottlenecks, and reads all that came out on the way."""

    def __init__(self, inputs: int, outputs: int, depth: int) -> None:
        super().__init__()
        self.width = outputs // 2
        self.enter = _convolution(inputs, outputs)
        self.blocks = nn.ModuleList(Bottleneck(self.width) for _ in range(depth))
        self.leave = _convolution((2 + depth) * self.width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(2, dim=1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.leave(torch.cat(parts, dim=1))


class Sppf(nn.Module):
    """The same map at four widths of a pooling window."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.leave = _convolution(width, width // 2), _convolution(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.enter(x)]
        for _ in range(3):
            found.append(F.max_pool2d(found[-1], 5, 1, 2))
        return self.leave(torch.cat(found, dim=1))


class Detector(nn.Module):
    """A YOLO-like network: C2f backbone, SPPF, a path up and down, separate heads for boxes and classes."""

    def __init__(self, classes: int = 4, bins: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolution(3, 16, 3, 2), _convolution(16, 32, 3, 2), C2f(32, 32, 1))
        self.down = nn.Sequential(_convolution(32, 64, 3, 2), C2f(64, 64, 2))
        self.deep = nn.Sequential(_convolution(64, 128, 3, 2), C2f(128, 128, 1), Sppf(128))
        self.upward, self.downward = C2f(192, 64, 1), C2f(192, 128, 1)
        self.shrink = _convolution(64, 64, 3, 2)
        self.boxes, self.scores = nn.ModuleList(), nn.ModuleList()
        for width in (64, 128):
            self.boxes.append(nn.Sequential(_convolution(width, 32, 3), nn.Conv2d(32, 4 * bins, 1)))
            self.scores.append(nn.Sequential(_convolution(width, 32, 3), nn.Conv2d(32, classes, 1)))
        self.bins = bins

    def forward(self, x: Tensor) -> list[Tensor]:
        middle = self.down(self.stem(x))
        deep = self.deep(middle)
        middle = self.upward(torch.cat([F.interpolate(deep, scale_factor=2.0), middle], dim=1))
        deep = self.downward(torch.cat([self.shrink(middle), deep], dim=1))
        return [self._head(number, level) for number, level in enumerate((middle, deep))]

    def _head(self, number: int, x: Tensor) -> Tensor:
        boxes = self.boxes[number](x).flatten(2).unflatten(1, (4, self.bins)).softmax(dim=2)
        centres = torch.arange(self.bins, dtype=boxes.dtype)
        expected = (boxes * centres[:, None]).sum(dim=2)
        return torch.cat([expected, self.scores[number](x).flatten(2).sigmoid()], dim=1)


class Separator(nn.Module):
    """A Conv-TasNet-like network: learned filters, dilated depthwise blocks, masks, and filters back to sound."""

    def __init__(self, filters: int = 48, width: int = 32, sources: int = 2) -> None:
        super().__init__()
        self.sources = sources
        self.encoder = nn.Conv1d(1, filters, 16, 8, bias=False)
        self.enter = nn.Sequential(nn.GroupNorm(1, filters), nn.Conv1d(filters, width, 1))
        self.blocks = nn.ModuleList(self._block(width, 64, 2**n) for n in range(3))
        self.masks = nn.Sequential(nn.PReLU(), nn.Conv1d(width, sources * filters, 1), nn.Sigmoid())
        self.decoder = nn.ConvTranspose1d(filters, 1, 16, 8, bias=False)

    @staticmethod
    def _block(width: int, hidden: int, dilation: int) -> nn.Sequential:
        depthwise = nn.Conv1d(hidden, hidden, 3, padding=dilation, dilation=dilation, groups=hidden)
        return nn.Sequential(
            nn.Conv1d(width, hidden, 1), nn.PReLU(hidden), nn.BatchNorm1d(hidden), depthwise, nn.PReLU(hidden),
            nn.BatchNorm1d(hidden), nn.Conv1d(hidden, width, 1),
        )  # fmt: skip

    def forward(self, sound: Tensor) -> Tensor:
        found = self.encoder(sound).relu()
        x = self.enter(found)
        for block in self.blocks:
            x = x + block(x)
        masks = self.masks(x).unflatten(1, (self.sources, -1))
        masked = (masks * found[:, None]).flatten(0, 1)
        return self.decoder(masked).reshape(len(sound), self.sources, -1)


class Codec(nn.Module):
    """An Encodec-like network: strided convolutions down, an LSTM, transposed convolutions up."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv1d(1, width, 7, padding=3, padding_mode="reflect")]
        for step in (2, 4):
            layers += [nn.ELU(), nn.Conv1d(width, width, 3, padding=1), nn.ELU()]
            layers += [nn.Conv1d(width, 2 * width, 2 * step, step, step // 2)]
            width *= 2
        self.encoder, self.sequence = nn.Sequential(*layers), nn.LSTM(width, width, batch_first=True)
        layers = []
        for step in (4, 2):
            layers += [nn.ELU(), nn.ConvTranspose1d(width, width // 2, 2 * step, step, step // 2)]
            width //= 2
            layers += [nn.ELU(), nn.Conv1d(width, width, 3, padding=1)]
        self.decoder = nn.Sequential(*layers, nn.ELU(), nn.Conv1d(width, 1, 7, padding=3))

    def forward(self, sound: Tensor) -> Tensor:
        found = self.encoder(sound)
        run, _ = self.sequence(found.transpose(1, 2))
        return self.decoder(found + run.transpose(1, 2))


class UNet(nn.Module):
    """Down by strides, up by transposed convolutions, with shortcuts across."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.down = nn.ModuleList([_convolution(3, width, 3), _convolution(width, 2 * width, 3, 2)])
        self.deep = nn.Sequential(_convolution(2 * width, 4 * width, 3, 2), _convolution(4 * width, 4 * width, 3))
        self.up = nn.ModuleList(
            [nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), nn.ConvTranspose2d(2 * width, width, 4, 2, 1)]
        )
        self.mix = nn.ModuleList([_convolution(4 * width, 2 * width, 3), _convolution(2 * width, width, 3)])
        self.out = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down[0](x)
        second = self.down[1](first)
        x = self.mix[0](torch.cat([self.up[0](self.deep(second)), second], dim=1))
        return self.out(self.mix[1](torch.cat([self.up[1](x), first], dim=1)))


class SuperResolution(nn.Module):
    """Residual blocks and a pixel shuffle."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(2)
        )
        self.grow = nn.Sequential(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.ReLU())
        self.out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for block in self.blocks:
            x = x + 0.1 * block(x)
        return self.out(self.grow(x))


class Generator(nn.Module):
    """A DCGAN-like decoder."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ConvTranspose2d(16, width, 4), nn.BatchNorm2d(width), nn.ReLU()]
        for _ in range(2):
            layers += [nn.ConvTranspose2d(width, width // 2, 4, 2, 1), nn.BatchNorm2d(width // 2), nn.ReLU()]
            width //= 2
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1), nn.Tanh())

    def forward(self, code: Tensor) -> Tensor:
        return self.layers(code)


class Forecaster(nn.Module):
    """Convolutions in front of a GRU, and layers behind it."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Conv1d(4, width, 5, padding=2), nn.BatchNorm1d(width), nn.ReLU())
        self.sequence = nn.GRU(width, 32, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Linear(64, width), nn.GELU(), nn.Linear(width, 3))

    def forward(self, series: Tensor) -> Tensor:
        found, _ = self.sequence(self.front(series).transpose(1, 2))
        return self.head(found[:, -1])


def _build(kind: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    return kind().eval(), torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))


BUILDERS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "yolo_like": partial(_build, Detector, (3, 64, 64)),
    "conv_tasnet_like": partial(_build, Separator, (1, 800)),
    "encodec_like": partial(_build, Codec, (1, 256)),
    "unet": partial(_build, UNet, (3, 32, 32)),
    "super_resolution": partial(_build, SuperResolution, (3, 16, 16)),
    "dcgan_like": partial(_build, Generator, (16, 1, 1)),
    "conv_gru": partial(_build, Forecaster, (4, 40)),
}
