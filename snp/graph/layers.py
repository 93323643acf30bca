"""What do layers with parameters do to units?  Rules for convolutions, linear layers, normalisation, embeddings."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from snp.graph.attention import attend, attention_macs, multiply
from snp.graph.operators import RULES, unknown
from snp.graph.traced import HEAD_DIMENSION, Parameter
from snp.graph.tracer import Tracer

__all__ = ["RULES"]


def _emit(tracer: Tracer, weight: Parameter, bias: Any) -> Tensor:
    """Labels of the units that a weight's rows produce, the bias tied to them, shape [O]."""
    rows = tracer.along(weight, 0)
    if isinstance(bias, Parameter):
        tracer.labels.tie(rows, tracer.along(bias, 0))
    return rows


def _linear(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    shadow, weight, bias = tracer.shadow(args[0]), args[1], args[2] if len(args) > 2 else None
    if shadow is None or not isinstance(weight, Parameter):
        return _uncut_weight(tracer, node, args)
    columns = tracer.along(weight, 1)
    tracer.labels.tie(tracer.per_index(shadow, -1), columns)
    if not tracer.is_own_module(weight, node):
        tracer.labels.freeze(columns, f"{weight.name} is read outside the module that owns it")
    tracer.read(weight, node, weight.shape[0])
    return _emit(tracer, weight, bias).expand(node.meta["val"].shape)


def _convolution(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    shadow, weight, bias = tracer.shadow(args[0]), args[1], args[2] if len(args) > 2 else None
    groups: Any = args[6] if len(args) > 6 else node.kwargs.get("groups", 1)
    result = node.meta["val"]
    if shadow is None or not isinstance(weight, Parameter) or shadow.ndim != result.ndim:
        return _uncut_weight(tracer, node, args)
    channels = tracer.per_index(shadow, 1)
    tracer.read(weight, node, weight.shape[0])
    tracer.convolutions.add(weight.name)
    rows = _emit(tracer, weight, bias)
    if groups == len(channels) > 1:
        # Depthwise: output channel j reads input channel j // multiplier only, so they are one unit.
        tracer.labels.tie(channels.repeat_interleave(len(rows) // groups), rows)
    else:
        if groups > 1:
            tracer.blocks[weight.name] = groups
            tracer.even += [(channels, groups, weight.name), (rows, groups, weight.name)]
        tracer.labels.tie(channels, tracer.along(weight, 1, groups))
        if not tracer.is_own_module(weight, node):
            tracer.labels.freeze(channels, f"{weight.name} is read outside the module that owns it")
    return rows.reshape(1, -1, *[1] * (result.ndim - 2)).expand(result.shape)


def _uncut_weight(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    """A layer whose weight is computed on the way: frozen on both sides, counted in the fixed cost."""
    tracer.fixed_macs += node.meta["val"].numel() * torch.Size(args[1].shape[1:]).numel()
    return unknown(tracer, node, args)


def _transposed_convolution(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    tracer.fixed_macs += torch.Size(args[0].shape).numel() * torch.Size(args[1].shape[1:]).numel()
    return unknown(tracer, node, args)


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
    return channels.reshape(1, -1, *[1] * (result.ndim - 2)).expand(result.shape)


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
    return channels.reshape(1, -1, *[1] * (result.ndim - 2)).expand(result.shape)


def _embedding(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    if not isinstance(args[0], Parameter):
        return unknown(tracer, node, args)
    tracer.embeddings.add(args[0].name)
    return tracer.along(args[0], 1).expand(node.meta["val"].shape)


def _attention(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    query, key, value, mask = [*(tracer.shadow(arg) if isinstance(arg, Parameter) else arg for arg in args), None][:4]
    if tracer.structures or tracer.whole_heads:
        labels = attend(tracer, node, query, key, value, mask, bool(node.kwargs.get("enable_gqa", False)))
        if labels is not None:
            return labels
    tracer.freeze_inputs(args, HEAD_DIMENSION)
    tracer.fixed_macs += attention_macs(args)
    return tracer.constant_like(node, HEAD_DIMENSION)


def _product(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    """A product of two activations: frozen on both sides, counted in the fixed cost."""
    if len(args) == 2 and (tracer.structures or tracer.whole_heads):
        labels = multiply(tracer, node, *args)
        if labels is not None:
            return labels
    # addmm and baddbmm have a summand in front of the two factors; both end in the factor's columns.
    left = args[1] if len(args) > 2 else args[0]
    tracer.fixed_macs += node.meta["val"].numel() * left.shape[-1]
    tracer.freeze_inputs(args, f"enters the product {node.target}")
    return tracer.constant_like(node, f"comes out of the product {node.target}")


def _einsum(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    """A product over named indices: frozen, each combination of index values one multiplication."""
    equation, operands = str(args[0]).replace(" ", ""), args[1]
    sizes: dict[str, int] = {}
    for names, operand in zip(equation.partition("->")[0].split(","), operands, strict=True):
        if "." in names:
            return unknown(tracer, node, args)
        sizes |= dict(zip(names, operand.shape, strict=True))
    tracer.fixed_macs += math.prod(sizes.values())
    tracer.freeze_inputs(operands, f"enters the product {node.target}")
    return tracer.constant_like(node, f"comes out of the product {node.target}")


RULES |= {
    "aten::einsum": _einsum,
    "aten::linear": _linear,
    **dict.fromkeys(("aten::conv1d", "aten::conv2d", "aten::conv3d"), _convolution),
    **dict.fromkeys((f"aten::conv{n}d.padding" for n in (1, 2, 3)), _convolution),
    **dict.fromkeys(("aten::batch_norm", "aten::_native_batch_norm_legit_no_training"), _batch_norm),
    **dict.fromkeys(("aten::layer_norm", "aten::rms_norm"), _norm_over_units),
    "aten::group_norm": _group_norm,
    "aten::embedding": _embedding,
    "aten::scaled_dot_product_attention": _attention,
    **dict.fromkeys((f"aten::{name}" for name in ["matmul", "mm", "bmm", "addmm", "baddbmm", "mv"]), _product),
    **dict.fromkeys((f"aten::conv_transpose{n}d" for n in (1, 2, 3)), _transposed_convolution),
}
