"""Which network does a seed give, and which data does it see?"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fuzzing import maps, tokens
from fuzzing.draw import Draw, plant, randomise
from fuzzing.given import batches_of, in_some_state, inputs_of

__all__ = ["Sample", "network"]

CLASSES = 5
SIZES = {1: (12,), 2: (6, 6), 3: (4, 4, 4)}


@dataclass(frozen=True, eq=False)
class Sample:
    """A network and data for it.

    Attributes:
        model: as it comes.
        inputs: for calibration.
        batches: the same in the form in which they are given.
        unseen: a batch that calibration does not see.
        planted: every unit inside a block has an exact copy, so half of them are redundant.
        words: what it consists of.
    """

    model: nn.Module
    inputs: Tensor
    batches: list[Any]
    unseen: Any
    planted: bool
    words: str


class Network(nn.Module):
    """A front, blocks, and heads whose outputs come out as the network pleases."""

    def __init__(
        self, front: nn.Module, blocks: list[nn.Module], heads: nn.ModuleList, join: Callable[..., Any]
    ) -> None:
        super().__init__()
        self.front, self.blocks, self.heads, self.join = front, nn.ModuleList(blocks), heads, join

    def forward(self, x: Tensor) -> Any:
        x = self.front(x)
        for block in self.blocks:
            x = block(x)
        return self.join([head(x) for head in self.heads])


class Scaled(nn.Module):
    """An output in units of its own: times a scale, plus a mean."""

    def __init__(self, head: nn.Module, scale: float, mean: float) -> None:
        super().__init__()
        self.head, self.scale, self.mean = head, scale, mean

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x) * self.scale + self.mean


class Pooled(nn.Module):
    """Means over space or tokens, then layers."""

    def __init__(self, dims: tuple[int, ...], layers: nn.Module) -> None:
        super().__init__()
        self.dims, self.layers = dims, layers

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.mean(self.dims))


class Words(nn.Module):
    """Embedded tokens and places."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(19, size), nn.Parameter(torch.randn(8, size))

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(x) + self.place


class Patches(nn.Module):
    """A picture as tokens: seven of its parts behind a class token."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.cut, self.first = nn.Conv1d(3, size, 2, 2), nn.Parameter(torch.randn(1, 1, size))
        self.place = nn.Parameter(torch.randn(1, 8, size))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.cut(x).transpose(1, 2)  # [N, 7, D]
        return torch.cat([self.first.expand(len(x), -1, -1), patches], 1) + self.place


def network(seed: int, planted: bool | None = None) -> Sample:
    """The network of a seed: a map or a sequence of tokens, through one to three blocks, to one to three outputs."""
    draw = Draw(random.Random(seed))
    torch.manual_seed(seed)
    draw.simple = draw.flag(0.2) if planted is None else planted
    parts = _of_tokens(draw) if draw.flag(0.4) else _of_maps(draw)
    model, data, words = parts
    randomise(model)
    number = plant(draw.spaces, draw, draw.simple)
    in_some_state(draw, model)
    inputs = inputs_of(draw, model, data)
    unseen = data(5).to(inputs.dtype)
    return Sample(model, inputs, batches_of(draw, inputs), unseen, draw.simple, f"{words}; {number} planted")


def _of_maps(draw: Draw) -> tuple[nn.Module, Callable[[int], Tensor], str]:
    d = draw.one_of(1, 2, 2, 2, 3)
    channels = draw.width(4)
    stem = draw.conv(3, channels, d)
    front = nn.Sequential(stem, draw.norm(channels, d), draw.act())
    draw.units(channels, *front[:2])
    blocks, names = [], []
    for _ in range(draw.rng.randint(1, 3)):
        make = draw.one_of(*(maps.COPYING if draw.simple else maps.ALL))
        block, channels = make(draw, channels, d)
        blocks.append(block)
        names.append(make.__name__)
    space = tuple(range(2, 2 + d))
    heads = nn.ModuleList(_head_of_maps(draw, channels, d, space) for _ in range(draw.one_of(1, 1, 2, 3)))
    join, way = _join(draw, len(heads))
    noise = lambda count: _smooth(torch.randn(count, 3, *SIZES[d]))  # noqa: E731
    return Network(front, blocks, heads, join), noise, f"{d}d {' '.join(names)} -> {len(heads)} {way}"


def _head_of_maps(draw: Draw, channels: int, d: int, space: tuple[int, ...]) -> nn.Module:
    way = draw.one_of("pooled", "pooled", "flat", "map", "deep", "itself" if d == 2 else "pooled")
    if way == "map":
        head: nn.Module = draw.conv(channels, CLASSES, d, 1)
    elif way == "flat" and not draw.simple:
        pool = getattr(nn, f"AdaptiveAvgPool{d}d")(2)
        head = nn.Sequential(pool, nn.Flatten(), nn.Linear(channels * 2**d, CLASSES))
    elif way == "deep":
        first = nn.Linear(channels, 8)
        draw.units(8, first)
        head = Pooled(space, nn.Sequential(first, nn.ReLU(), nn.Linear(8, CLASSES)))
    elif way == "itself" and not draw.simple:
        head = nn.AvgPool2d(2)
    else:
        head = Pooled(space, nn.Linear(channels, CLASSES))
    return _scaled(draw, head)


def _scaled(draw: Draw, head: nn.Module) -> nn.Module:
    if draw.flag(0.7):
        return head
    return Scaled(head, draw.one_of(1.0, 1e-3, 100.0), draw.one_of(0.0, 10.0, 1000.0))


def _of_tokens(draw: Draw) -> tuple[nn.Module, Callable[[int], Tensor], str]:
    size = 4 * draw.rng.randint(2, 4)
    front_kind = draw.one_of("words", "patches", "linear")
    front: nn.Module = {"words": Words, "patches": Patches}.get(front_kind, lambda size: nn.Linear(6, size))(size)
    made = []
    for _ in range(draw.rng.randint(1, 3)):
        made.append(draw.one_of(*(tokens.COPYING if draw.simple else (*tokens.ALL, *tokens.ATTENDING))))
    blocks = [make(draw, size) for make in made]
    last = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, CLASSES)) if draw.flag() else nn.Linear(size, CLASSES)
    heads = nn.ModuleList([_scaled(draw, draw.one_of(Pooled((1,), last), last))])
    if front_kind == "words" and draw.flag():
        tied = nn.Linear(size, 19, bias=False)
        tied.weight = front.embed.weight
        heads.append(tied)
    join, way = _join(draw, len(heads))
    data = {
        "words": lambda count: torch.randint(0, 19, (count, 8)),
        "patches": lambda count: _smooth(torch.randn(count, 3, 14)),
        "linear": lambda count: torch.randn(count, 8, 6),
    }[front_kind]
    names = " ".join(make.__name__ for make in made)
    return Network(front, blocks, heads, join), data, f"{front_kind} {names} -> {len(heads)} {way}"


def _smooth(noise: Tensor) -> Tensor:
    """Neighbours explain each other in part, and every sample has a level and a contrast of its own."""
    smooth = noise + 0.5 * noise.roll(1, -1) + 0.3 * noise.roll(1, 1)
    lead = (*noise.shape[:2], *(1,) * (noise.ndim - 2))
    return smooth * (0.5 + 1.5 * torch.rand(lead)) + 2 * torch.randn(lead)


def _join(draw: Draw, number: int) -> tuple[Callable[[list[Tensor]], Any], str]:
    if number == 1:
        return lambda outputs: outputs[0], "output"
    way = draw.one_of("tuple", "list", "dict", "nested")
    rules: dict[str, Callable[[list[Tensor]], Any]] = {
        "tuple": tuple,
        "list": list,
        "dict": lambda outputs: {f"head{i}": output for i, output in enumerate(outputs)},
        "nested": lambda outputs: {"first": outputs[0], "others": tuple(outputs[1:])},
    }
    return rules[way], f"outputs in a {way}"
