"""Which blocks change the order, the number or the meaning of channels?  Shuffles, pixels, splits, gates, sharing.

As in ``maps``: every function draws a block for ``channels`` inputs and ``d`` dimensions of space.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuzzing.draw import Block, Draw, Made, ones, space


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
            y = y * m.along(y.mean(space(d))[:, None])[:, 0].sigmoid().reshape(len(y), -1, *ones(d))
        elif way == "normalised":
            y = F.normalize(y, dim=1)
        elif way == "coordinates":
            y = torch.cat([y, torch.linspace(-1, 1, y.shape[-1]).expand(len(y), 1, *y.shape[2:])], 1)
        elif way == "softmax":
            y = y.softmax(1)
        elif way == "prelu":
            y = m.prelu(y)
        else:
            y = (y - y.mean(space(d), keepdim=True)) / (y.var(space(d), keepdim=True) + 1e-3).sqrt()
        return m.last(y)

    return Block(rule, **parts), out
