"""Which blocks join, repeat and divide maps in ways that no architecture has a name for?  As in ``maps``."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuzzing.draw import Block, Draw, Made

Rule = Callable[[Block, Tensor], Tensor]


def concatenated(draw: Draw, channels: int, d: int) -> Made:
    """Two layers' maps side by side, in front of what knows nothing of the seam: groups, norms, depthwise kernels."""
    widths, out = [draw.width(4, 8), draw.width(4, 8)], draw.width(4)
    both = sum(widths)
    way = draw.one_of("grouped", "norm", "depthwise", "added", "twice", "residual")
    parts = {"one": draw.conv(channels, widths[0], d), "other": draw.conv(channels, widths[1], d)}
    parts["last"] = draw.conv(2 * both if way == "twice" else both, out, d)
    if way == "grouped":
        parts["between"] = draw.conv(both, both, d, groups=2)
    elif way == "norm":
        parts["between"] = nn.GroupNorm(draw.one_of(2, 4), both) if draw.flag() else nn.BatchNorm1d(both)
        if not isinstance(parts["between"], nn.GroupNorm):
            parts["between"] = getattr(nn, f"BatchNorm{d}d")(both)
    elif way == "depthwise":
        parts["between"] = draw.conv(both, both, d, 3, groups=both)
    elif way in ("added", "residual"):
        parts["between"] = draw.conv(channels if way == "added" else both, both, d, 1)

    def rule(m: Block, x: Tensor) -> Tensor:
        y = torch.cat([m.one(x), F.relu(m.other(x))], 1)
        if way == "twice":
            y = torch.cat([y, y], 1)
        elif way == "added":
            y = y + m.between(x)
        elif way == "residual":
            y = y + F.relu(m.between(y))
        else:
            y = m.between(y)
        return m.last(F.relu(y))

    return Block(rule, **parts), out


def folded(draw: Draw, channels: int, d: int) -> Made:
    """One layer's maps folded onto themselves: halves added, repeated, squared, chosen, in one einsum or as a table."""
    half, out = draw.width(4, 8), draw.width(4)
    rules: dict[str, tuple[int, Rule]] = {
        "halves": (half, lambda m, y: y[:, :half] + y[:, half:]),
        "repeated": (4 * half, lambda m, y: y.repeat_interleave(2, 1)),
        "tiled": (4 * half, lambda m, y: torch.cat([y, y.flip(1)], 1)),
        "pairs": (half, lambda m, y: y.unflatten(1, (half, 2)).mean(2)),
        "chosen": (half, lambda m, y: torch.where(y[:, :half] > 0, y[:, :half], 0.1 * y[:, half:])),
        "squared": (2 * half, lambda m, y: y.clamp(-2, 2) ** 2 - y),
        "einsum": (2 * half, lambda m, y: torch.einsum("nc...,oc->no...", y, m.table)),
        "scaled": (2 * half, lambda m, y: y * m.table[0].reshape(1, -1, *[1] * d) + m.table[1].reshape(-1, *[1] * d)),
        "three": (2 * half, lambda m, y: torch.cat(y.chunk(3, 1)[::-1], 1)),
        "rest": (2 * half - 1, lambda m, y: y[:, 1:]),
    }
    way = draw.one_of(*rules)
    wide, fold = rules[way]
    parts = {"first": draw.conv(channels, 2 * half, d), "last": draw.conv(wide, out, d)}
    if way in ("einsum", "scaled"):
        parts["table"] = nn.Parameter(torch.randn(2 * half, 2 * half) / 3)
    return Block(lambda m, x: m.last(F.relu(fold(m, m.first(x)))), **parts), out


def once_more(draw: Draw, channels: int, d: int) -> Made:
    """A norm that two layers share, or a module that is held under two names."""
    hidden, out = draw.width(), draw.width(4)
    first, again, norm = draw.conv(channels, hidden, d), draw.conv(channels, hidden, d), draw.norm(hidden, d)
    last = draw.conv(hidden, out, d)
    if draw.flag():
        return Block(
            lambda m, x: m.last(F.relu(m.norm(m.first(x))) * m.norm(m.again(x))),
            first=first,
            again=again,
            norm=norm,
            last=last,
        ), out
    return Block(
        lambda m, x: m.last(F.relu(m.norm(m.first(x)))) + m.same(F.silu(m.first(x))),
        first=first,
        norm=norm,
        last=last,
        same=last,
    ), out


ALL = (concatenated, folded, once_more)
