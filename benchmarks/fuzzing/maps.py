"""Which blocks do networks of images, signals and volumes consist of?  Each takes a map [N, C, ...] and gives one back.

Every function draws a block for ``channels`` inputs and ``d`` dimensions of space, and says how many channels come out.
Blocks that planted copies pass through unharmed stand in ``COPYING``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuzzing.draw import Block, Draw

Made = tuple[nn.Module, int]


def _ones(d: int) -> tuple[int, ...]:
    return (1,) * d


def _space(d: int) -> tuple[int, ...]:
    return tuple(range(2, 2 + d))


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
        "after": draw.one_of(nn.Identity, nn.ReLU)(), "gamma": nn.Parameter(torch.rand(channels, *_ones(d)) + 0.5),
    }  # fmt: skip
    draw.units(hidden, parts["first"], parts["norm"])
    return Block(lambda m, x: m.after(x + m.gamma * m.last(m.second(m.act(m.norm(m.first(x)))))), **parts), channels


def projected(draw: Draw, channels: int, d: int) -> Made:
    """A residual block whose shortcut is a convolution, or channels of zeros."""
    hidden, extra = draw.width(), draw.width(4)
    out = channels + extra
    parts = {"first": draw.conv(channels, hidden, d), "act": draw.act(), "second": draw.conv(hidden, out, d)}
    draw.units(hidden, parts["first"])
    if draw.flag():
        parts["shortcut"] = draw.conv(channels, out, d, 1)
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
            y = y * gate(m.excite(F.relu(m.squeeze(y.mean(_space(d), keepdim=True)))))
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


def shuffled(draw: Draw, channels: int, d: int) -> Made:
    """Channels change places between layers: by the operator, by shapes, by halves, turned round or rolled."""
    groups = draw.one_of(2, 3, 4)
    hidden, out = groups * draw.rng.randint(2, 4), draw.width(4)
    way = draw.one_of("operator", "shapes", "flip", "roll", "every second", "index")
    order = torch.randperm(hidden)

    def mixed(m: Block, y: Tensor) -> Tensor:
        if way == "operator":
            return m.shuffle(y)
        if way == "shapes":
            return y.reshape(len(y), groups, hidden // groups, *y.shape[2:]).transpose(1, 2).flatten(1, 2)
        if way == "flip":
            return y.flip(1)
        if way == "roll":
            return y.roll(1, 1)
        return y[:, order] if way == "index" else torch.cat([y[:, ::2], y[:, 1::2]], 1)

    last = draw.conv(hidden, groups * 2, d, groups=groups) if draw.flag() else draw.conv(hidden, out, d)
    parts = {
        "first": draw.conv(channels, hidden, d), "norm": draw.norm(hidden, d), "shuffle": nn.ChannelShuffle(groups),
        "last": last,
    }  # fmt: skip
    return Block(lambda m, x: m.last(mixed(m, F.relu(m.norm(m.first(x))))), **parts), last.out_channels


def shuffle_unit(draw: Draw, channels: int, d: int) -> Made:
    """ShuffleNet: half of the channels goes through, then both halves are interleaved."""
    parts = {"branch": draw.conv(channels // 2, channels // 2, d), "last": draw.conv(channels, channels, d, 1)}

    def rule(m: Block, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        y = torch.stack([left, F.relu(m.branch(right))], 2).flatten(1, 2)
        return m.last(y)

    return Block(rule, **parts), channels


def pixels(draw: Draw, channels: int, d: int) -> Made:
    """Channels become pixels, or pixels channels."""
    hidden, out = draw.width(most=8), draw.width(4)
    if d != 2:
        last = draw.conv(hidden, out, d)

        def unrolled(m: Block, x: Tensor) -> Tensor:
            y = m.first(x)  # [N, 2 C, L, ...] -> [N, C, 2 L, ...]
            y = y.reshape(len(y), hidden, 2, *y.shape[2:]).movedim(2, 3).flatten(2, 3)
            return m.last(F.relu(y))[:, :, ::2]

        return Block(unrolled, first=draw.conv(channels, 2 * hidden, d), last=last), out
    if draw.flag():
        parts = {"first": draw.conv(channels, 4 * hidden, d), "last": draw.conv(hidden, out, d)}
        shuffle = nn.PixelShuffle(2) if draw.flag() else None

        def rule(m: Block, x: Tensor) -> Tensor:
            y = m.first(x)
            if m.shuffle is None:
                n, _, h, w = y.shape
                y = y.view(n, 2, 2, hidden, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, hidden, 2 * h, 2 * w)
            else:
                y = m.shuffle(y)
            return F.avg_pool2d(m.last(F.relu(y)), 2)

        return Block(rule, shuffle=shuffle, **parts), out
    parts = {"first": draw.conv(channels, hidden, d), "last": draw.conv(4 * hidden, out, d)}
    return Block(
        lambda m, x: F.interpolate(m.last(F.pixel_unshuffle(m.first(x).relu(), 2)), scale_factor=2.0), **parts
    ), out


def transposed(draw: Draw, channels: int, d: int) -> Made:
    """A convolution, a transposed one, and one that halves the map again."""
    hidden, wide, out = draw.width(4, 12), draw.width(4, 12), draw.width(4)
    groups = draw.one_of(1, 1, 1, 2)
    parts = {
        "first": draw.conv(channels, hidden, d), "act": draw.act(), "norm": draw.norm(wide, d),
        "up": getattr(nn, f"ConvTranspose{d}d")(hidden, wide, 2, stride=2, groups=groups, bias=draw.flag()),
        "down": draw.conv(wide, out, d, 2, stride=2, padding=0),
    }  # fmt: skip
    return Block(lambda m, x: m.down(m.act(m.norm(m.up(m.act(m.first(x)))))), **parts), out


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


def parted(draw: Draw, channels: int, d: int) -> Made:
    """One layer's maps, split at sizes that the constructor wrote down or that the code knows."""
    sizes, out = [draw.width(), draw.width()], draw.width(4)
    written = draw.flag(0.7)
    parts = {"both": draw.conv(channels, sum(sizes), d), "one": draw.conv(sizes[0], out, d)}
    parts |= {"other": draw.conv(sizes[1], out, d), "sizes": list(sizes)}

    def rule(m: Block, x: Tensor) -> Tensor:
        first, second = F.relu(m.both(x)).split(m.sizes if written else sizes, 1)
        return m.one(first) + m.other(second)

    return Block(rule, **parts), out


def gated(draw: Draw, channels: int, d: int) -> Made:
    """Maps times gates, from two layers or from halves of one, or the larger of two."""
    hidden, out = draw.width(), draw.width(4)
    way = draw.one_of("two", "chunk", "glu", "maxout", "stack")
    wide = hidden if way in ("two", "stack") else 2 * hidden
    first = draw.conv(channels, wide, d)
    parts = {"first": first, "last": draw.conv(hidden, out, d)}
    if way in ("two", "stack"):
        parts["gate"] = draw.conv(channels, hidden, d)
        draw.units(hidden, first, parts["gate"])

    def rule(m: Block, x: Tensor) -> Tensor:
        y = m.first(x)
        if way == "two":
            y = y * m.gate(x).sigmoid()
        elif way == "stack":
            y = torch.stack([y, m.gate(x)]).amax(0)
        elif way == "chunk":
            left, right = y.chunk(2, 1)
            y = left * F.silu(right)
        elif way == "glu":
            y = F.glu(y, 1)
        else:
            y = y.unflatten(1, (hidden, 2)).amax(2)
        return m.last(y)

    return Block(rule, **parts), out


def shared(draw: Draw, channels: int, d: int) -> Made:
    """One layer that runs twice, or two that hold one weight."""
    hidden = draw.width()
    first, last = draw.conv(channels, hidden, d, 1), draw.conv(hidden, channels, d, 1)
    if draw.flag():
        draw.units(hidden, first)
        return Block(
            lambda m, x: x + m.last(F.relu(m.first(x + m.last(F.relu(m.first(x)))))), first=first, last=last
        ), channels
    again, other = draw.conv(channels, hidden, d, 1, bias=True), draw.conv(hidden, channels, d, 1, bias=True)
    tied = nn.Conv1d if d == 1 else nn.Conv2d if d == 2 else nn.Conv3d
    first, last = tied(channels, hidden, 1), tied(hidden, channels, 1)
    again, other = tied(channels, hidden, 1), tied(hidden, channels, 1)
    again.weight = first.weight
    return Block(
        lambda m, x: x + m.last(F.relu(m.first(x))) + m.other(F.relu(m.again(x))),
        first=first, last=last, again=again, other=other,
    ), channels  # fmt: skip


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


def attentive(draw: Draw, channels: int, d: int) -> Made:
    """What mixes channels without a weight for each: means over them, kernels along them, norms by hand."""
    hidden, out = draw.width(), draw.width(4)
    way = draw.one_of("spatial", "along", "normalised", "coordinates", "softmax", "prelu", "instance")
    wide = hidden + 1 if way == "coordinates" else hidden
    parts = {
        "first": draw.conv(channels, hidden, d), "last": draw.conv(wide, out, d), "map": draw.conv(2, 1, d),
        "along": nn.Conv1d(1, 1, 3, padding=1, bias=False), "prelu": nn.PReLU(hidden),
    }  # fmt: skip
    for unused in {"map", "along", "prelu"} - {{"spatial": "map"}.get(way, way)}:
        del parts[unused]

    def rule(m: Block, x: Tensor) -> Tensor:
        y = m.first(x)
        if way == "spatial":
            y = y * m.map(torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)).sigmoid()
        elif way == "along":
            y = y * m.along(y.mean(_space(d))[:, None])[:, 0].sigmoid().reshape(len(y), -1, *_ones(d))
        elif way == "normalised":
            y = F.normalize(y, dim=1)
        elif way == "coordinates":
            y = torch.cat([y, torch.linspace(-1, 1, y.shape[-1]).expand(len(y), 1, *y.shape[2:])], 1)
        elif way == "softmax":
            y = y.softmax(1)
        elif way == "prelu":
            y = m.prelu(y)
        else:
            y = (y - y.mean(_space(d), keepdim=True)) / (y.var(_space(d), keepdim=True) + 1e-3).sqrt()
        return m.last(y)

    return Block(rule, **parts), out


COPYING: tuple[Callable[[Draw, int, int], Made], ...] = (
    plain,
    residual,
    projected,
    inverted,
    ghost,
    branches,
    convnext,
)
ALL = (*COPYING, grouped, dense, halves, shuffled, shuffle_unit, pixels, transposed, parted, gated, shared, attentive)
