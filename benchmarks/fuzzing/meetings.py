"""Which blocks split at numbers that they keep, meet index by index, or turn their weights round?

As in Res2Net and FasterNet, in gates written as `einsum`, in state-space layers and in linear layers written by hand.
"""

from __future__ import annotations

import string
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuzzing.draw import Block, Draw, Made, token_norm

__all__ = ["OF_MAPS", "OF_TOKENS"]


class Hierarchical(nn.Module):
    """Parts of one width each, every one convolved with what came of the one before."""

    def __init__(self, draw: Draw, channels: int, d: int, width: int, scale: int) -> None:
        super().__init__()
        self.width, self.adds = width, draw.flag()
        self.enter, self.leave = draw.conv(channels, scale * width, d, 1), draw.conv(scale * width, channels, d, 1)
        self.each = nn.ModuleList(draw.conv(width, width, d) for _ in range(scale - 1))

    def forward(self, x: Tensor) -> Tensor:
        first, *others = F.relu(self.enter(x)).split(self.width, 1)
        found = [first]
        for layer, part in zip(self.each, others, strict=True):
            found.append(F.relu(layer(part + found[-1] if self.adds else part)))
        return x + self.leave(torch.cat(found, 1))


class Partial(nn.Module):
    """A part that is convolved and one that passes, at two numbers."""

    def __init__(self, draw: Draw, channels: int, d: int, convolved: int, passed: int) -> None:
        super().__init__()
        self.convolved, self.passed = convolved, passed
        self.enter = draw.conv(channels, convolved + passed, d, 1)
        self.layer, self.leave = draw.conv(convolved, convolved, d), draw.conv(convolved + passed, channels, d, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, other = F.relu(self.enter(x)).split([self.convolved, self.passed], 1)
        return self.leave(torch.cat([F.relu(self.layer(one)), other], 1))


def hierarchical(draw: Draw, channels: int, d: int) -> Made:
    return Hierarchical(draw, channels, d, draw.width(4, 8), draw.one_of(2, 3)), channels


def partial(draw: Draw, channels: int, d: int) -> Made:
    return Partial(draw, channels, d, draw.width(4, 8), draw.width(4, 8)), channels


def weighed(draw: Draw, channels: int, d: int) -> Made:
    """Gates and averages over space, written as einsum."""
    hidden, way = draw.width(), draw.one_of("gate", "channel", "place", "mean")
    space = string.ascii_lowercase[10 : 10 + d]

    def rule(m: Block, x: Tensor) -> Tensor:
        y, gate = F.relu(m.first(x)), m.second(x).sigmoid()
        if way == "gate":
            y = torch.einsum(f"nc{space},nc{space}->nc{space}", y, gate)
        elif way == "channel":
            y = torch.einsum(f"nc,nc{space}->nc{space}", gate.flatten(2).mean(2), y)
        elif way == "place":
            y = torch.einsum(f"nc{space},n{space}->nc{space}", y, gate.mean(1))
        else:
            y = torch.einsum(f"nc{space},nc{space}->nc", y, gate)[(..., *(None,) * d)].expand_as(y)
        return x + m.last(y)

    parts = {"first": draw.conv(channels, hidden, d), "second": draw.conv(channels, hidden, d, 1)}
    return Block(rule, last=draw.conv(hidden, channels, d, 1), **parts), channels


def turned(draw: Draw, size: int) -> nn.Module:
    """Linear layers whose code turns their weights round."""
    hidden, way = draw.width(), draw.one_of("T", "mT", "einsum", "left", "functional")

    def product(x: Tensor, weight: Tensor) -> Tensor:  # shape [outputs, inputs]
        if way == "einsum":
            return torch.einsum("nti,io->nto", x, weight.t())
        if way == "left":
            return (weight @ x.transpose(1, 2)).transpose(1, 2)
        if way == "functional":
            return F.linear(x, weight.T.T)
        return x @ (weight.T if way == "T" else weight.mT)

    return Block(
        lambda m, x: x + product(F.gelu(product(m.norm(x), m.up)), m.down),
        norm=token_norm(draw, size),
        up=nn.Parameter(torch.randn(hidden, size) / 3), down=nn.Parameter(torch.randn(size, hidden) / 3),
    )  # fmt: skip


def states(draw: Draw, size: int) -> nn.Module:
    """Units with a row of states each, moved on by a parameter and read out by the input."""
    hidden, number, written = draw.width(most=8), 3, draw.flag()

    def rule(m: Block, x: Tensor) -> Tensor:
        normal = m.norm(x)
        units, read = F.silu(m.enter(normal)), m.read(normal)
        state = torch.zeros(len(x), units.shape[-1], number, dtype=x.dtype, device=x.device)
        found = []
        for step in range(x.shape[1]):
            new = units[:, step, :, None] * (read[:, step, None].sigmoid() if written else 1.0)
            state = torch.exp(-m.rates.exp()) * state + new
            found.append((state @ read[:, step, :, None])[..., 0])
        return x + m.leave(torch.stack(found, 1))

    return Block(
        rule, norm=token_norm(draw, size), enter=draw.linear(size, hidden), read=nn.Linear(size, number),
        rates=nn.Parameter(torch.randn(hidden, number) / 3), leave=draw.linear(hidden, size),
    )  # fmt: skip


def outer(draw: Draw, size: int) -> nn.Module:
    """Every unit of one layer times every one of another, which are averaged out."""
    hidden, other = draw.width(), draw.width()
    return Block(
        lambda m, x: x + m.leave((F.relu(m.one(x))[..., :, None] * m.two(x).sigmoid()[..., None, :]).mean(-1)),
        one=draw.linear(size, hidden), two=draw.linear(size, other), leave=draw.linear(hidden, size),
    )  # fmt: skip


OF_MAPS: tuple[Callable[[Draw, int, int], Made], ...] = (hierarchical, partial, weighed)
OF_TOKENS: tuple[Callable[[Draw, int], nn.Module], ...] = (turned, states, outer)
