"""What do operators do to units that mix the values of one unit?  Pooling, statistics, sorting, transforms over space.

Each is exact for units as long as no two of them are mixed; where they are, all of them are frozen.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from snp.graph.aten import ALONG, PER_CHANNEL, REDUCING
from snp.graph.branches import go_together_along
from snp.graph.operators import constant_along, rule, unknown
from snp.graph.traced import Parameter, held_numbers, module_running
from snp.graph.tracer import Tracer

__all__: list[str] = []


def _name(node: fx.Node) -> str:
    """Name of an operator without namespace, overload and underscore of writing in place."""
    return str(node.target).split(".")[1].rstrip("_")


def _each(node: fx.Node, labels: Tensor) -> Any:
    """Labels of size 1 where values were mixed, in the shape of the result, or of every one of several results."""
    result = node.meta["val"]
    if isinstance(result, (list, tuple)):
        return [labels.expand(part.shape) for part in result]
    return labels.expand(result.shape)


def _dims(node: fx.Node, args: list[Any], position: int, num_dims: int) -> list[int] | None:
    """The dimensions that an operator works along; None for all."""
    dims: Any = args[position] if len(args) > position else node.kwargs.get("dim")
    if dims is None or dims == [] or isinstance(dims, bool):
        return None
    return [dims % num_dims] if isinstance(dims, int) else [dim % num_dims for dim in dims]


@rule(*REDUCING)
def _reduce(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    shadow = tracer.shadow(args[0])
    over = None if shadow is None else _dims(node, args, REDUCING[_name(node)], shadow.ndim)
    # What was filled with one value is another sum where units are gone.
    if shadow is None or over is None or bool(tracer.labels.is_blank(shadow).any()):
        return unknown(tracer, node, args)
    if not go_together_along(tracer, node, shadow, over):
        reason = f"{node.target} makes one value of many units, as a norm written out in operators does"
        tracer.freeze_inputs(args, reason)
        return tracer.constant_like(node, reason)
    for dim in over:
        shadow = shadow.narrow(dim, 0, 1)
    result = node.meta["val"]
    if isinstance(result, (list, tuple)):
        return [shadow.reshape(part.shape) for part in result]
    return shadow.reshape(result.shape)


@rule(*ALONG)
def _mix_along(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    shadow, position = tracer.shadow(args[0]), ALONG[_name(node)]
    if shadow is None or bool(tracer.labels.is_blank(shadow).any()):
        return unknown(tracer, node, args)
    over = _dims(node, args, position, shadow.ndim)
    if over is None or not go_together_along(tracer, node, shadow, over):
        return unknown(tracer, node, args)
    for dim in over:
        shadow = shadow.narrow(dim, 0, 1)
    return _each(node, shadow)


@rule(*PER_CHANNEL.split())
def _per_channel(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    shadow, name = tracer.shadow(args[0]), _name(node)
    spatial = next(number for number in (1, 2, 3) if f"{number}d" in name)
    if shadow is None or shadow.ndim != spatial + 2:
        return unknown(tracer, node, args)
    if "unpool" in name:  # indices are places within a channel
        tracer.labels.tie(shadow, args[1])
    return _each(node, _along_channels(tracer, shadow))


def _along_channels(tracer: Tracer, shadow: Tensor) -> Tensor:
    return tracer.per_index(shadow, 1).reshape(1, -1, *[1] * (shadow.ndim - 2))


@rule("instance_norm")
def _instance_norm(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    shadow = tracer.shadow(args[0])
    if shadow is None:
        return unknown(tracer, node, args)
    for parameter in args[1:5]:
        if isinstance(parameter, Parameter):
            tracer.labels.tie(tracer.per_index(shadow, 1), tracer.along(parameter, 0))
        elif isinstance(parameter, Tensor):
            return unknown(tracer, node, args)
    module = module_running(node)
    if module is not None and not any(isinstance(parameter, Parameter) for parameter in args[1:5]):
        # No tensor of the module tells it how many channels are left.
        tracer.sizes.append((module, "num_features", tracer.per_index(shadow, 1)))
    return _each(node, _along_channels(tracer, shadow))


@rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def _grid_sample(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    """All channels are read at the same places, so whatever computes these stays whole."""
    shadow = tracer.shadow(args[0])
    if shadow is None:
        return unknown(tracer, node, args)
    tracer.freeze_inputs(args[1:2], "says where values are read")
    return _each(node, _along_channels(tracer, shadow))


@rule("im2col")
def _unfold(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    """Patches: every channel becomes as many as its kernel has elements."""
    shadow, result = tracer.shadow(args[0]), node.meta["val"]
    if shadow is None or shadow.ndim != 4:
        return unknown(tracer, node, args)
    size = args[1][0] * args[1][1]
    return tracer.per_index(shadow, 1).repeat_interleave(size).reshape(1, -1, 1).expand(result.shape)


@rule("col2im")
def _fold(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    """Patches are added up where they came from: what becomes one channel goes together."""
    shadow, result = tracer.shadow(args[0]), node.meta["val"]
    if shadow is None or shadow.ndim != 3:
        return unknown(tracer, node, args)
    parts = tracer.per_index(shadow, 1).reshape(-1, args[2][0] * args[2][1])
    channels = tracer.per_index(parts, 0)
    return channels.reshape(1, -1, 1, 1).expand(result.shape)


@rule("glu")
def _glu(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    """Value and gate lie half the channels apart, and go together."""
    shadow, dim = tracer.shadow(args[0]), args[1] if len(args) > 1 else -1
    if shadow is None:
        return unknown(tracer, node, args)
    value, gate = shadow.chunk(2, dim)
    tracer.labels.tie(value, gate)
    return tracer.labels.merged(value, gate)


@rule("tril", "triu")
def _triangle(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    shadow = tracer.shadow(args[0])
    if shadow is None or not all(constant_along(tracer, shadow, dim) for dim in (-2, -1)):
        return unknown(tracer, node, args)
    return shadow


@rule("view_as_real", "view_as_complex")
def _complex(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    """Real and imaginary part are one number."""
    shadow = tracer.shadow(args[0])
    if shadow is None:
        return unknown(tracer, node, args)
    if _name(node) == "view_as_real":
        return shadow[..., None].expand(node.meta["val"].shape)
    first, second = shadow.unbind(-1)
    tracer.labels.tie(first, second)
    return tracer.labels.merged(first, second)


@rule("index", "index_select", "gather")
def _picked(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    """Values at chosen places: which ones does not matter along dimensions that hold one unit."""
    name, result = _name(node), node.meta["val"]
    places = args[1] if name == "index" else args[2]
    if isinstance(args[0], Parameter) and args[0].ndim == 2 and name == "index" and len(places) == 1:
        number = node.all_input_nodes[-1].meta["val"]
        if not number.is_floating_point() and number.dtype != torch.bool:
            # Rows of a table, as biases of relative positions: its columns are units.
            return tracer.along(args[0], 1).expand(result.shape)
    shadow = tracer.shadow(args[0])
    if shadow is None or isinstance(args[0], Parameter):
        return unknown(tracer, node, args)
    given: Any = node.args[1] if name == "index" else ()
    numbers = [held_numbers(tracer.constants, place) for place in given]
    if numbers and all((number is None) == (place is None) for number, place in zip(numbers, places, strict=True)):
        return shadow[tuple(slice(None) if number is None else number for number in numbers)]
    dims = [d for d, place in enumerate(places) if place is not None] if name == "index" else [args[1] % shadow.ndim]
    if not all(constant_along(tracer, shadow, dim) for dim in dims):
        return unknown(tracer, node, args)
    tracer.freeze_inputs([places], "says where values are read")
    if name == "index":
        return shadow[tuple(slice(None) if p is None else torch.zeros(p.shape, dtype=torch.int64) for p in places)]
    labels = shadow.narrow(dims[0], 0, 1)
    same = all(
        d == dims[0] or have == want for d, (have, want) in enumerate(zip(shadow.shape, result.shape, strict=True))
    )
    return labels.expand(result.shape) if same else unknown(tracer, node, args)
