"""What is a random network drawn from, and how are redundant units planted in it?"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

Item = TypeVar("Item")
Made = tuple[nn.Module, int]  # a module, and how many channels it gives out


def ones(d: int) -> tuple[int, ...]:
    """The size of one value per channel, beside maps of so many dimensions."""
    return (1,) * d


def space(d: int) -> tuple[int, ...]:
    """The dimensions of a map's positions."""
    return tuple(range(2, 2 + d))


class Block(nn.Module):
    """Layers, parameters and numbers by name, and the rule that joins them: ``rule(block, x)``."""

    def __init__(self, rule: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.rule = rule
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        """Whatever the rule says."""
        return self.rule(self, x)


@dataclass
class Draw:
    """The source of everything random about one network.

    Attributes:
        rng: numbers and choices.
        simple: only what leaves planted copies exact copies, and every layer as it is called.
        spaces: units inside blocks: how many, and the modules whose rows they are.
    """

    rng: random.Random
    simple: bool = False
    spaces: list[tuple[int, tuple[nn.Module, ...]]] = field(default_factory=list)

    def flag(self, chance: float = 0.5) -> bool:
        """True with that chance."""
        return self.rng.random() < chance

    def one_of(self, *items: Item) -> Item:
        """One of these, all alike likely."""
        return self.rng.choice(items)

    def width(self, multiple: int = 2, most: int = 16) -> int:
        """A small number of units."""
        return multiple * self.rng.randint(max(1, 4 // multiple), max(2, most // multiple))

    def units(self, size: int, *modules: nn.Module) -> None:
        """Remember that rows of these modules are the same units, all computed from the same inputs."""
        self.spaces.append((size, modules))

    # layers

    def conv(self, inputs: int, outputs: int, d: int, kernel: int | None = None, **options: Any) -> nn.Module:
        """A convolution that keeps the size of a map."""
        kernel = self.one_of(1, 3) if kernel is None else kernel
        options = {"padding": kernel // 2, "bias": self.flag(0.6)} | options
        if kernel == 3 and self.flag(0.25):
            options["padding_mode"] = self.one_of("reflect", "circular", "replicate")
        layer: nn.Module = getattr(nn, f"Conv{d}d")(inputs, outputs, kernel, **options)
        return weight_norm(layer) if not self.simple and self.flag(0.05) else layer

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        """A linear layer."""
        layer = nn.Linear(inputs, outputs, bias=self.flag(0.7))
        return weight_norm(layer) if not self.simple and self.flag(0.04) else layer

    def norm(self, channels: int, d: int) -> nn.Module:
        """A norm of a map, or none."""
        kind = self.one_of("batch", "batch", "batch", "none", "group", "instance", "one group", "layer")
        if self.simple or kind == "batch":
            return getattr(nn, f"BatchNorm{d}d")(channels, affine=self.flag(0.9))
        if kind == "group":
            return nn.GroupNorm(self.one_of(*(g for g in (2, 4, channels) if channels % g == 0)), channels)
        if kind == "instance":
            return getattr(nn, f"InstanceNorm{d}d")(channels, affine=self.flag())
        if kind == "one group":
            return nn.GroupNorm(1, channels)
        return ChannelNorm(channels) if kind == "layer" else nn.Identity()

    def act(self) -> nn.Module:
        """An activation."""
        return self.one_of(
            nn.ReLU, nn.ReLU, nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.Tanh, nn.ELU, nn.Mish
        )()


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of a map [N, C, ...]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Shape [N, C, ...], kept."""
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias).movedim(-1, 1)


class RootMeanSquare(nn.Module):
    """RMSNorm written out in operators."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Shape [..., D], kept."""
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def token_norm(draw: Draw, size: int) -> nn.Module:
    """A norm over the last dimension, or none."""
    return draw.one_of(nn.LayerNorm, nn.LayerNorm, RootMeanSquare, nn.RMSNorm, lambda _: nn.Identity())(size)


def randomise(model: nn.Module) -> nn.Module:
    """Values everywhere: norms, statistics, scales and biases that are not what constructors write."""
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("running_mean"):
                tensor.normal_(0, 0.3)
            elif tensor.ndim == 1 and name.endswith("weight"):
                tensor.copy_(torch.empty_like(tensor).uniform_(0.5, 1.5))
            elif tensor.ndim == 1:
                tensor.normal_(0, 0.3)
    return model


def _tensors(module: nn.Module, size: int) -> list[Tensor]:
    found = [*module.parameters(), *module.buffers()]
    return [tensor.data for tensor in found if tensor.ndim and tensor.shape[0] == size]


def plant(spaces: Sequence[tuple[int, tuple[nn.Module, ...]]], draw: Draw, everywhere: bool) -> int:
    """Make some units copies of others or dead; the second half of all units copies of the first if ``everywhere``.

    Returns:
        How many were planted.
    """
    planted = 0
    for size, modules in spaces:
        half = size // 2
        pairs = [(half + u, u) for u in range(half)]
        if not everywhere:
            pairs = draw.rng.sample(pairs, draw.rng.randint(0, max(0, half - 1))) if draw.flag(0.3) else []
        for copy, original in pairs:
            is_dead = not everywhere and draw.flag(0.3)
            for tensor in (t for module in modules for t in _tensors(module, size)):
                tensor[copy] = torch.ones_like(tensor[copy]) * 1e-9 if is_dead else tensor[original]
        planted += len(pairs)
    return planted
