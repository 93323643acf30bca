"""What do layers with parameters do to units?  Rules for linear layers, normalisation and embeddings."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, fx

from snp.graph.counting import macs_of_operator
from snp.graph.labels import compact
from snp.graph.operators import constant_along, rule, unknown
from snp.graph.traced import Parameter, Turned
from snp.graph.tracer import Tracer

__all__ = ["at_all_positions", "emit", "linear", "matrix"]


def emit(tracer: Tracer, node: fx.Node, weight: Parameter, dim: int, bias: Any, num_blocks: int = 1) -> Tensor:
    """Labels of the units that a weight computes, along one of its dimensions, the bias tied to them, shape [O]."""
    tracer.streams.begin(node)
    rows = tracer.along(weight, dim, num_blocks)
    if isinstance(bias, Parameter):
        tracer.labels.tie(rows, tracer.along(bias, 0))
    elif isinstance(bias, Tensor):
        tracer.labels.tie(rows, tracer.per_index(bias, -1))
    return rows


def at_all_positions(channels: Tensor, result: Tensor) -> Tensor:
    """Labels of channels [C] as those of activations [N, C, ...]."""
    return channels.reshape(1, -1, *[1] * (result.ndim - 2)).expand(result.shape)


def matrix(value: Any) -> tuple[Parameter, bool] | None:
    """A matrix of parameters, and is it turned round; None for all else."""
    if isinstance(value, Turned) and value.dims == (1, 0):
        return value.parameter, True
    return (value, False) if isinstance(value, Parameter) and value.ndim == 2 else None


@rule("linear", takes_turned=True)
def _linear(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    shadow, weight, bias = tracer.shadow(args[0]), matrix(args[1]), args[2] if len(args) > 2 else None
    if not isinstance(args[0], Tensor) or shadow is None or weight is None or isinstance(bias, Turned):
        computed = isinstance(args[1], Tensor)
        return unknown(tracer, node, args, "a linear layer whose weight is computed on the way" if computed else "")
    return linear(tracer, node, shadow, weight[0], bias, input_dim=0 if weight[1] else 1, channel_dim=-1)


def linear(
    tracer: Tracer,
    node: fx.Node,
    shadow: Tensor,
    weight: Parameter,
    bias: Any = None,
    *,
    input_dim: int = 1,
    channel_dim: int,
    output_channel_dim: int | None = None,
) -> Tensor:
    """Labels of a product of activations with a matrix of parameters.

    Args:
        tracer: state of the analysis.
        node: the product.
        shadow: labels of the activations.
        weight: two-dimensional.
        bias: that is added, if any.
        input_dim: dimension of the weight along which inputs lie; outputs lie along the other one.
        channel_dim: dimension of the activations along which they lie.
        output_channel_dim: dimension of the result along which outputs lie; that of the inputs if None.
    """
    result = node.meta["val"]
    output_channel_dim = channel_dim if output_channel_dim is None else output_channel_dim
    if weight.is_buffer and bias is None and constant_along(tracer, shadow, channel_dim):
        passed = _mixed(tracer, node, shadow, channel_dim, output_channel_dim)
        if passed is not None:
            return passed
    tracer.labels.tie(tracer.per_index(shadow, channel_dim), tracer.along(weight, input_dim))
    positions = result.numel() // weight.shape[1 - input_dim]
    tracer.read(weight, node, positions, input_dim=input_dim, channel_dims=(channel_dim, output_channel_dim))
    rows = emit(tracer, node, weight, 1 - input_dim, bias)
    shape = [-1 if dim == output_channel_dim % result.ndim else 1 for dim in range(result.ndim)]
    return rows.reshape(shape).expand(result.shape)


def _mixed(tracer: Tracer, node: fx.Node, shadow: Tensor, dim: int, output_dim: int) -> Tensor | None:
    """Labels of units that a matrix of numbers mixes the positions of: they pass one by one, as through a pooling.

    None for inputs of the network, behind a norm of a stream, whose bias would be mixed, too, and where heads are the
    units, to which products bring no cost.
    """
    shape = node.meta["val"].shape
    is_unfit = tracer.whole_heads or tracer.norms.holds(node) or shadow.ndim != len(shape)
    if is_unfit or tracer.labels.are_constant(shadow):
        return None
    labels = shadow.narrow(dim, 0, 1).movedim(dim, output_dim)
    tracer.products.append((macs_of_operator(node), compact(labels)[0].reshape(-1), not tracer.is_given))
    return labels.expand(shape)


@rule("batch_norm", "_native_batch_norm_legit_no_training")
def _batch_norm(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    shadow, result = tracer.shadow(args[0]), node.meta["val"]
    if shadow is None:
        return unknown(tracer, node, args)
    channels = tracer.per_index(shadow, 1)
    for parameter in args[1:5]:
        if isinstance(parameter, Parameter):
            tracer.labels.tie(channels, tracer.along(parameter, 0))
        elif isinstance(parameter, Tensor):
            return unknown(tracer, node, args)
    return at_all_positions(channels, result)


@rule("layer_norm", "rms_norm")
def _norm_over_units(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    """LayerNorm, RMSNorm, GroupNorm of one group: each unit's value depends on which others are there."""
    shadow = tracer.shadow(args[0])
    if shadow is None:
        return unknown(tracer, node, args)
    if tracer.whole_heads and isinstance(args[1], (list, tuple)):
        # A norm inside each head does not care how many heads there are.
        over = shadow.reshape(-1, math.prod(args[1]))
        roots = tracer.labels.roots(over)
        if bool((roots == roots[:, :1]).all()):
            return shadow
    tracer.labels.freeze(shadow, f"normalised together with other units by {node.target}")
    return shadow


@rule("snp::stream_norm")
def _norm_of_stream(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    """In the form that divides by a fixed number of units (:mod:`snp.graph.stream_norms`) units may go."""
    shadow = tracer.shadow(args[0])
    if shadow is None:
        return unknown(tracer, node, args)
    units = tracer.per_index(shadow, -1)
    for parameter in args[1:3]:
        if isinstance(parameter, Parameter):
            tracer.labels.tie(units, tracer.along(parameter, 0))
    tracer.norms.begin(node, args[1].name, units, centres=bool(args[5]))
    return units.expand(node.meta["val"].shape)


@rule("group_norm")
def _group_norm(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    """Whole groups of a GroupNorm can go: no other group's statistics change, and the module counts what is left."""
    shadow, num_groups, weight, result = tracer.shadow(args[0]), args[1], args[2:3], node.meta["val"]
    if shadow is None or num_groups < 2 or not weight or not isinstance(weight[0], Parameter):
        return _norm_over_units(tracer, node, args)
    channels = tracer.per_index(shadow, 1)
    for parameter in args[2:4]:
        if isinstance(parameter, Parameter):
            tracer.labels.tie(channels, tracer.along(parameter, 0))
    for group in channels.reshape(num_groups, -1):
        tracer.labels.tie_all(group)
    return at_all_positions(channels, result)


@rule("embedding")
def _embedding(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    if not isinstance(args[0], Parameter):
        return unknown(tracer, node, args)
    tracer.embeddings.add(args[0].name)
    tracer.streams.begin(node)
    return tracer.along(args[0], 1).expand(node.meta["val"].shape)
