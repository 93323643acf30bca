"""Which blocks do networks of sequences consist of?  Each takes tokens [N, T, D] and gives tokens of that size back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuzzing.draw import Block, Draw


class RootMeanSquare(nn.Module):
    """RMSNorm written out in operators."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class ProductLayer(nn.Module):
    """A linear layer that keeps its weight as [inputs, outputs], as GPT-2 does."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs) / 3), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).reshape(*x.shape[:-1], -1)


def _norm(draw: Draw, size: int) -> nn.Module:
    return draw.one_of(nn.LayerNorm, nn.LayerNorm, RootMeanSquare, nn.RMSNorm, lambda _: nn.Identity())(size)


def feedforward(draw: Draw, size: int) -> nn.Module:
    hidden = draw.width()
    up, act = draw.linear(size, hidden), draw.act()
    draw.units(hidden, up)
    parts = {"norm": _norm(draw, size), "up": up, "act": act, "down": draw.linear(hidden, size)}
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
    parts = {"norm": _norm(draw, size), "up": draw.linear(size, wide), "down": draw.linear(hidden, size)}
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

    return Block(rule, norm=_norm(draw, size), up=up, down=draw.linear(hidden, size))


def products(draw: Draw, size: int) -> nn.Module:
    """Hidden units of layers that keep their weights the other way round."""
    hidden = draw.width()
    return Block(
        lambda m, x: x + m.down(F.gelu(m.up(m.norm(x)))),
        norm=_norm(draw, size), up=ProductLayer(size, hidden), down=ProductLayer(hidden, size),
    )  # fmt: skip


def mixer(draw: Draw, size: int) -> nn.Module:
    """Hidden units over the tokens, of which there are eight."""
    hidden = draw.width()
    up = draw.linear(8, hidden)
    draw.units(hidden, up)
    return Block(
        lambda m, x: x + m.down(F.gelu(m.up(m.norm(x).transpose(1, 2)))).transpose(1, 2),
        norm=_norm(draw, size), up=up, down=draw.linear(hidden, 8),
    )  # fmt: skip


def conformer(draw: Draw, size: int) -> nn.Module:
    """Gated convolutions along the tokens."""
    hidden = draw.width()
    parts = {
        "norm": _norm(draw, size), "up": draw.conv(size, 2 * hidden, 1, 1), "down": draw.conv(hidden, size, 1, 1),
        "depth": draw.conv(hidden, hidden, 1, 3, groups=hidden), "inner": nn.BatchNorm1d(hidden),
    }  # fmt: skip

    def rule(m: Block, x: Tensor) -> Tensor:
        y = F.glu(m.up(m.norm(x).transpose(1, 2)), 1)
        return x + m.down(F.silu(m.inner(m.depth(y)))).transpose(1, 2)

    return Block(rule, **parts)


def recurrent(draw: Draw, size: int) -> nn.Module:
    kind = draw.one_of(nn.GRU, nn.LSTM)
    return Block(
        lambda m, x: x + m.out(F.relu(m.between(m.cell(m.enter(x))[0]))),
        enter=draw.linear(size, 6), cell=kind(6, 5, batch_first=True), between=draw.linear(5, 8), out=draw.linear(8, size),
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


class Attention(nn.Module):
    """Self-attention in one of many forms; its numbers have the names that libraries use.

    Attributes:
        follows: the logits are divided by the root of the size that queries have now, not of a stored one.
    """

    def __init__(self, draw: Draw, size: int) -> None:
        super().__init__()
        self.num_heads = draw.one_of(1, 2, 4)
        self.num_kv_heads = draw.one_of(*(h for h in (1, 2, 4) if self.num_heads % h == 0))
        self.fused, self.way = draw.flag(0.6), draw.one_of("qkv", "separate", "separate", "chunk")
        if self.way != "separate":
            self.num_kv_heads = self.num_heads
        self.head_dim = size // self.num_heads if self.way == "qkv" else draw.one_of(2, 3, 4)
        self.scale, self.causal = self.head_dim**-0.5, draw.flag(0.3)
        self.repeats_by = draw.one_of("gqa", "repeat", "expand")
        self.follows = self.fused and draw.flag(0.4)
        wide, narrow = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        if self.way == "separate":
            self.q_proj, self.k_proj, self.v_proj = (draw.linear(size, rows) for rows in (wide, narrow, narrow))
        else:
            self.qkv = draw.linear(size, 3 * wide)
        self.proj = draw.linear(wide, size)
        is_normal = draw.flag(0.15)
        self.q_norm, self.k_norm = ((nn.LayerNorm(self.head_dim) if is_normal else nn.Identity()) for _ in range(2))
        self.bias = nn.Parameter(torch.randn(self.num_heads, 8, 8)) if draw.flag(0.15) else None

    @property
    def query_tensors(self) -> tuple[str, str]:
        """Name of the weight of queries and where its rows of queries end, as a share: all, or the first third."""
        return ("q_proj", "all") if self.way == "separate" else ("qkv", "third")

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values [N, H, T, D]."""
        if self.way == "qkv":
            n, t, _ = x.shape
            q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        elif self.way == "chunk":
            q, k, v = (p.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for p in self.qkv(x).chunk(3, -1))
        else:
            q = self.q_proj(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            k = self.k_proj(x).unflatten(-1, (self.num_kv_heads, -1)).transpose(1, 2)
            v = self.v_proj(x).unflatten(-1, (self.num_kv_heads, -1)).transpose(1, 2)
        return self.q_norm(q), self.k_norm(k), v

    def _repeated(self, part: Tensor) -> Tensor:
        times = self.num_heads // self.num_kv_heads
        if self.repeats_by == "expand":
            n, h, t, d = part.shape
            return part[:, :, None].expand(n, h, times, t, d).reshape(n, h * times, t, d)
        return part.repeat_interleave(times, 1)

    def _attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shares = self.num_kv_heads != self.num_heads
        by_operator = shares and self.fused and self.repeats_by == "gqa"
        if shares and not by_operator:
            k, v = self._repeated(k), self._repeated(v)
        if self.fused:
            mask = None if self.causal else self.bias
            scale = None if self.follows else self.scale
            return F.scaled_dot_product_attention(
                q, k, v, mask, is_causal=self.causal, scale=scale, enable_gqa=by_operator
            )
        scores = q @ k.transpose(-2, -1) * self.scale
        if self.bias is not None:
            scores = scores + self.bias
        if self.causal:
            scores = scores.masked_fill(torch.ones(8, 8).triu(1).bool(), -math.inf)
        return scores.softmax(-1) @ v

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self._attended(*self._parts(x)).transpose(1, 2).flatten(2))


def attention(draw: Draw, size: int) -> nn.Module:
    return Block(lambda m, x: x + m.attend(m.norm(x)), norm=_norm(draw, size), attend=Attention(draw, size))


def stock(draw: Draw, size: int) -> nn.Module:
    """PyTorch's own attention."""
    layer = nn.MultiheadAttention(size, draw.one_of(1, 2), bias=draw.flag(), batch_first=True)
    return Block(lambda m, x: x + m.attend(x, x, x, need_weights=False)[0], attend=layer)


def latents(draw: Draw, size: int) -> nn.Module:
    """Attention of a few learned queries to the tokens, and back."""

    def rule(m: Block, x: Tensor) -> Tensor:
        seen = F.scaled_dot_product_attention(m.queries.expand(len(x), -1, -1), m.key(x), m.value(x))
        return x + m.out(seen).mean(1, keepdim=True)

    return Block(
        rule, queries=nn.Parameter(torch.randn(1, 3, 6)), key=draw.linear(size, 6), value=draw.linear(size, 10),
        out=draw.linear(10, size),
    )  # fmt: skip


COPYING: tuple[Callable[[Draw, int], nn.Module], ...] = (feedforward, gated, twice, experts, mixer)
ATTENDING: tuple[Callable[[Draw, int], nn.Module], ...] = (attention, attention, attention, stock, latents)
ALL: tuple[Any, ...] = (*COPYING, *ATTENDING, products, conformer, recurrent)
