"""Which forms does attention take?"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuzzing.draw import Block, Draw, token_norm


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
        if draw.flag(0.4):
            self.attn_drop = nn.Dropout(0.0)  # as libraries' modules have it
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
        """Shape [N, T, D], kept."""
        return self.proj(self._attended(*self._parts(x)).transpose(1, 2).flatten(2))


def attention(draw: Draw, size: int) -> nn.Module:
    return Block(lambda m, x: x + m.attend(m.norm(x)), norm=token_norm(draw, size), attend=Attention(draw, size))


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
