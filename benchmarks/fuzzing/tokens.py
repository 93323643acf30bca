"""Which blocks do networks of sequences consist of?  Each takes tokens [N, T, D] and gives tokens of that size back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuzzing import meetings
from fuzzing.attention import attention, latents, stock
from fuzzing.draw import Block, Draw, token_norm


class ProductLayer(nn.Module):
    """A linear layer that keeps its weight as [inputs, outputs], as GPT-2 does."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs) / 3), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Shape [..., I] -> [..., O]."""
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).reshape(*x.shape[:-1], -1)


def feedforward(draw: Draw, size: int) -> nn.Module:
    hidden = draw.width()
    up, act = draw.linear(size, hidden), draw.act()
    draw.units(hidden, up)
    parts = {"norm": token_norm(draw, size), "up": up, "act": act, "down": draw.linear(hidden, size)}
    if draw.flag(0.3):
        parts["scale"] = nn.Parameter(torch.rand(size))
        return Block(lambda m, x: x + m.scale * m.down(m.act(m.up(m.norm(x)))), **parts)
    if draw.flag(0.3):
        return Block(lambda m, x: m.norm(x + m.down(m.act(m.up(x)))), **parts)
    return Block(lambda m, x: x + m.down(m.act(m.up(m.norm(x)))), **parts)


def gated(draw: Draw, size: int) -> nn.Module:
    """Gated hidden units: from two layers, or from one whose outputs are halved."""
    hidden = draw.width()
    way = "two" if draw.simple else draw.one_of("two", "chunk", "unflatten", "glu", "interleaved")
    wide = hidden if way == "two" else 2 * hidden
    parts = {"norm": token_norm(draw, size), "up": draw.linear(size, wide), "down": draw.linear(hidden, size)}
    if way == "two":
        parts["gate"] = draw.linear(size, hidden)
        draw.units(hidden, parts["up"], parts["gate"])

    def rule(m: Block, x: Tensor) -> Tensor:
        normal = m.norm(x)
        y = m.up(normal)
        if way == "two":
            y = F.silu(m.gate(normal)) * y
        elif way == "chunk":
            left, right = y.chunk(2, -1)
            y = F.silu(left) * right
        elif way == "unflatten":
            left, right = y.unflatten(-1, (2, -1)).unbind(-2)
            y = F.gelu(left) * right
        elif way == "interleaved":
            y = F.silu(y[..., ::2]) * y[..., 1::2]
        else:
            y = F.glu(y, -1)
        return x + m.down(y)

    return Block(rule, **parts)


def twice(draw: Draw, size: int) -> nn.Module:
    """The same layers run two times (ALBERT)."""
    hidden = draw.width()
    up = draw.linear(size, hidden)
    draw.units(hidden, up)

    def rule(m: Block, x: Tensor) -> Tensor:
        for _ in range(2):
            x = x + m.down(F.relu(m.up(m.norm(x))))
        return x

    return Block(rule, norm=token_norm(draw, size), up=up, down=draw.linear(hidden, size))


def products(draw: Draw, size: int) -> nn.Module:
    """Hidden units of layers that keep their weights the other way round."""
    hidden = draw.width()
    return Block(
        lambda m, x: x + m.down(F.gelu(m.up(m.norm(x)))),
        norm=token_norm(draw, size), up=ProductLayer(size, hidden), down=ProductLayer(hidden, size),
    )  # fmt: skip


def mixer(draw: Draw, size: int) -> nn.Module:
    """Hidden units over the tokens, of which there are eight."""
    hidden = draw.width()
    up = draw.linear(8, hidden)
    draw.units(hidden, up)
    return Block(
        lambda m, x: x + m.down(F.gelu(m.up(m.norm(x).transpose(1, 2)))).transpose(1, 2),
        norm=token_norm(draw, size), up=up, down=draw.linear(hidden, 8),
    )  # fmt: skip


def conformer(draw: Draw, size: int) -> nn.Module:
    """Gated convolutions along the tokens."""
    hidden = draw.width()
    parts = {
        "norm": token_norm(draw, size), "up": draw.conv(size, 2 * hidden, 1, 1), "down": draw.conv(hidden, size, 1, 1),
        "depth": draw.conv(hidden, hidden, 1, 3, groups=hidden), "inner": nn.BatchNorm1d(hidden),
    }  # fmt: skip

    def rule(m: Block, x: Tensor) -> Tensor:
        y = F.glu(m.up(m.norm(x).transpose(1, 2)), 1)
        return x + m.down(F.silu(m.inner(m.depth(y)))).transpose(1, 2)

    return Block(rule, **parts)


def recurrent(draw: Draw, size: int) -> nn.Module:
    """A recurrent layer, of one direction or two, of one layer or two, between linear ones."""
    kind, layers, both_ways = draw.one_of(nn.GRU, nn.LSTM, nn.RNN), draw.one_of(1, 1, 2), draw.flag(0.3)
    cell = kind(6, 5, layers, batch_first=True, bidirectional=both_ways)
    return Block(
        lambda m, x: x + m.out(F.relu(m.between(m.cell(m.enter(x))[0]))),
        enter=draw.linear(size, 6), cell=cell, between=draw.linear(10 if both_ways else 5, 8),
        out=draw.linear(8, size),
    )  # fmt: skip


def experts(draw: Draw, size: int) -> nn.Module:
    """A sum of small layers, weighed by gates that depend on the token."""
    hidden, number = draw.width(most=8), 2
    ups = [draw.linear(size, hidden) for _ in range(number)]
    for up in ups:
        draw.units(hidden, up)

    def rule(m: Block, x: Tensor) -> Tensor:
        weights = m.router(x).softmax(-1)
        pairs = zip(m.ups, m.downs, strict=True)
        return x + sum(weights[..., i : i + 1] * down(F.relu(up(x))) for i, (up, down) in enumerate(pairs))

    return Block(
        rule, router=nn.Linear(size, number), ups=nn.ModuleList(ups),
        downs=nn.ModuleList(draw.linear(hidden, size) for _ in range(number)),
    )  # fmt: skip


COPYING: tuple[Callable[[Draw, int], nn.Module], ...] = (feedforward, gated, twice, experts, mixer)
ATTENDING: tuple[Callable[[Draw, int], nn.Module], ...] = (attention, attention, attention, stock, latents)
ALL: tuple[Any, ...] = (*COPYING, *ATTENDING, products, conformer, recurrent, *meetings.OF_TOKENS)
