"""Which blocks do networks of images, signals and volumes consist of?  Each takes a map [N, C, ...] and gives one back.

Every function draws a block for ``channels`` inputs and ``d`` dimensions of space, and says how many channels come out.
Blocks that planted copies pass through unharmed stand in ``COPYING``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuzzing import channels as channels_of
from fuzzing import joins, meetings
from fuzzing.draw import Block, Draw, Made, ones, space


def plain(draw: Draw, channels: int, d: int) -> Made:
    """Convolution, normalisation, activation, and a second convolution."""
    hidden, out = draw.width(), draw.width(4)
    first, norm = draw.conv(channels, hidden, d), draw.norm(hidden, d)
    draw.units(hidden, first, norm)
    last = draw.conv(hidden, out, d)
    draw.units(out, last)
    return nn.Sequential(first, norm, draw.act(), last), out


def residual(draw: Draw, channels: int, d: int) -> Made:
    hidden = draw.width()
    parts = {
        "first": draw.conv(channels, hidden, d), "norm": draw.norm(hidden, d), "act": draw.act(),
        "second": draw.conv(hidden, channels, d), "last": draw.norm(channels, d),
        "after": draw.one_of(nn.Identity, nn.ReLU)(), "gamma": nn.Parameter(torch.rand(channels, *ones(d)) + 0.5),
    }  # fmt: skip
    draw.units(hidden, parts["first"], parts["norm"])
    return Block(lambda m, x: m.after(x + m.gamma * m.last(m.second(m.act(m.norm(m.first(x)))))), **parts), channels


def projected(draw: Draw, channels: int, d: int) -> Made:
    """A residual block whose shortcut is a convolution, or channels of zeros."""
    hidden, extra = draw.width(), draw.width(4)
    out = channels + extra
    parts = {"first": draw.conv(channels, hidden, d), "act": draw.act(), "second": draw.conv(hidden, out, d)}
    draw.units(hidden, parts["first"])
    if draw.simple or draw.flag():
        parts["shortcut"] = draw.conv(channels, out, d, 1)
        draw.units(out, parts["shortcut"], parts["second"])
        return Block(lambda m, x: F.relu(m.shortcut(x) + m.second(m.act(m.first(x)))), **parts), out
    pads = (0, 0) * d + (0, extra)
    return Block(lambda m, x: F.pad(x, pads) + m.second(m.act(m.first(x))), **parts), out


def inverted(draw: Draw, channels: int, d: int) -> Made:
    """Expansion, depthwise kernel, squeeze-and-excite, projection."""
    hidden, squeezed, times = draw.width(), draw.width(), 1 if draw.simple else draw.one_of(1, 1, 2)
    wide = hidden * times
    parts = {
        "expand": draw.conv(channels, hidden, d, 1), "norm": draw.norm(hidden, d), "act": draw.act(),
        "depth": draw.conv(hidden, wide, d, 3, groups=hidden), "squeeze": draw.conv(wide, squeezed, d, 1),
        "excite": draw.conv(squeezed, wide, d, 1), "project": draw.conv(wide, channels, d, 1),
    }  # fmt: skip
    if times == 1:
        draw.units(hidden, *(parts[name] for name in ("expand", "norm", "depth", "excite")))
        draw.units(squeezed, parts["squeeze"])
        draw.units(channels, parts["project"])
    gate = draw.one_of(torch.sigmoid, F.hardsigmoid)
    excited, adds = draw.flag(0.7), draw.flag(0.7)

    def rule(m: Block, x: Tensor) -> Tensor:
        y = m.act(m.depth(m.act(m.norm(m.expand(x)))))
        if excited:
            y = y * gate(m.excite(F.relu(m.squeeze(y.mean(space(d), keepdim=True)))))
        return x + m.project(y) if adds else m.project(y)

    return Block(rule, **parts), channels


def grouped(draw: Draw, channels: int, d: int) -> Made:
    """ResNeXt."""
    groups = draw.one_of(2, 3, 4)
    hidden = groups * draw.rng.randint(2, 4)
    parts = {
        "first": draw.conv(channels, hidden, d, 1), "norm": draw.norm(hidden, d), "act": draw.act(),
        "middle": draw.conv(hidden, groups * draw.rng.randint(2, 4), d, groups=groups),
    }  # fmt: skip
    parts["last"] = draw.conv(parts["middle"].out_channels, channels, d, 1)
    return Block(lambda m, x: x + m.last(m.act(m.middle(m.act(m.norm(m.first(x)))))), **parts), channels


def dense(draw: Draw, channels: int, d: int) -> Made:
    """Every layer sees all maps so far."""
    growth = [draw.width(most=8) for _ in range(2)]
    parts = {
        "norm": draw.norm(channels, d), "first": draw.conv(channels, growth[0], d),
        "second": draw.conv(channels + growth[0], growth[1], d),
    }  # fmt: skip
    draw.units(growth[0], parts["first"])

    def rule(m: Block, x: Tensor) -> Tensor:
        x = torch.cat([x, F.relu(m.first(F.relu(m.norm(x))))], 1)
        return torch.cat([x, m.second(x)], 1)

    return Block(rule, **parts), channels + sum(growth)


def halves(draw: Draw, channels: int, d: int) -> Made:
    """Two halves of a convolution's maps, one goes on through another layer, all are joined (CSP, C2f)."""
    half, out = draw.width(), draw.width(4)
    parts = {
        "both": draw.conv(channels, 2 * half, d, 1), "inner": draw.conv(half, half, d), "act": draw.act(),
        "join": draw.conv(3 * half, out, d, 1),
    }  # fmt: skip
    keeps_sum, by_split = draw.flag(), draw.flag()

    def rule(m: Block, x: Tensor) -> Tensor:
        y = m.act(m.both(x))
        parts = list(y.split(half, 1) if by_split else y.chunk(2, 1))
        new = m.act(m.inner(parts[-1]))
        return m.join(torch.cat([*parts, parts[-1] + new if keeps_sum else new], 1))

    return Block(rule, **parts), out


def ghost(draw: Draw, channels: int, d: int) -> Made:
    """Cheap maps by a depthwise kernel beside the real ones."""
    half, out = draw.width(), draw.width(4)
    parts = {
        "first": draw.conv(channels, half, d, 1), "cheap": draw.conv(half, half, d, 3, groups=half),
        "act": draw.act(), "last": draw.conv(2 * half, out, d, 1),
    }  # fmt: skip
    draw.units(half, parts["first"], parts["cheap"])
    draw.units(out, parts["last"])

    def rule(m: Block, x: Tensor) -> Tensor:
        y = m.act(m.first(x))
        return m.last(torch.cat([y, m.act(m.cheap(y))], 1))

    return Block(rule, **parts), out


def branches(draw: Draw, channels: int, d: int) -> Made:
    """Inception."""
    widths, out = [draw.width(most=8) for _ in range(3)], draw.width(4)
    last = draw.conv(sum(widths), out, d)
    draw.units(out, last)
    layers = [draw.conv(channels, width, d) for width in widths]
    for width, layer in zip(widths, layers, strict=True):
        draw.units(width, layer)
    act = draw.act()
    return Block(
        lambda m, x: m.last(act(torch.cat([layer(x) for layer in m.layers], 1))),
        layers=nn.ModuleList(layers), last=last,
    ), out  # fmt: skip


def convnext(draw: Draw, channels: int, d: int) -> Made:
    """Depthwise kernel, LayerNorm and linear layers over the last dimension, or plain products with parameters."""
    hidden, by_hand = draw.width(), not draw.simple and draw.flag(0.4)
    up, down = draw.linear(channels, hidden), draw.linear(hidden, channels)
    parts = {"depth": draw.conv(channels, channels, d, 3, groups=channels), "norm": nn.LayerNorm(channels)}
    if by_hand:
        parts |= {
            "up": nn.Parameter(torch.randn(channels, hidden) / 3),
            "down": nn.Parameter(torch.randn(hidden, channels) / 3),
        }
        parts["bias"] = nn.Parameter(torch.zeros(hidden))
        return Block(
            lambda m, x: x + (F.gelu(m.norm(m.depth(x).movedim(1, -1)) @ m.up + m.bias) @ m.down).movedim(-1, 1),
            **parts,
        ), channels
    draw.units(hidden, up)
    return Block(
        lambda m, x: x + m.down(F.gelu(m.up(m.norm(m.depth(x).movedim(1, -1))))).movedim(-1, 1),
        up=up,
        down=down,
        **parts,
    ), channels


COPYING: tuple[Callable[[Draw, int, int], Made], ...] = (
    plain,
    residual,
    projected,
    inverted,
    ghost,
    branches,
    convnext,
)
ALL = (
    *COPYING, grouped, dense, halves, channels_of.shuffled, channels_of.shuffle_unit, channels_of.pixels,
    channels_of.transposed, channels_of.parted, channels_of.gated, channels_of.shared, channels_of.attentive,
    *joins.ALL, *meetings.OF_MAPS,
)  # fmt: skip
