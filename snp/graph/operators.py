"""What does each ATen operator do to units?  One rule per kind of operator; what has no rule freezes.

A rule gets the tracer, the node and its arguments (label tensors, :class:`Parameter` or plain values) and returns
the labels of the result.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from snp.graph.aten import POOLING, SHAPE, UNARY
from snp.graph.splits import along
from snp.graph.traced import Parameter, Split, module_running
from snp.graph.tracer import Rule, Tracer

__all__ = ["RULES", "unknown"]

RULES: dict[str, Rule] = {}
_SHARED = "shares values with units of another head or group, as with rotary embeddings"


def _rule(*names: str) -> Any:
    def register(function: Rule) -> Rule:
        for name in names:
            RULES[f"aten::{name}"] = function
            RULES[f"aten::{name}_"] = function
        return function

    return register


def unknown(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    """Freeze all that enters, and give out labels that freeze what they meet."""
    reason = f"enters {node.target}, which the analysis does not know"
    tracer.freeze_inputs(args, reason)
    return tracer.constant_like(node, f"comes out of {node.target}, which the analysis does not know")


@_rule(*UNARY.split())
def _unary(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    shadow = tracer.shadow(args[0])
    return tracer.constant_like(node, "is a scalar") if shadow is None else shadow


@_rule(*SHAPE.split())
def _shape(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    shadows = [_shadow_tree(tracer, value) for value in args]
    assert callable(node.target)
    if "view.default" in str(node.target):
        # Labels need not lie in memory as the activations do.
        return shadows[0].reshape(shadows[1])
    labels = node.target(*shadows, **{k: v for k, v in node.kwargs.items() if not isinstance(v, fx.Node)})
    if "channel_shuffle" in str(node.target):
        # The same places of every group go: what is left is then shuffled to the right places again.
        first, *others = shadows[0].chunk(args[1], dim=1)
        for other in others:
            tracer.labels.tie(first, other)
    if "chunk" in str(node.target):
        tracer.chunks.append(list(labels))
    if "split" in str(node.target) and isinstance(args[1], (list, tuple)):
        tracer.splits.append(Split(module_running(node), tuple(args[1]), along(labels, *args[2:])))
    return labels


def _shadow_tree(tracer: Tracer, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_shadow_tree(tracer, entry) for entry in value]
    return tracer.shadow(value) if isinstance(value, Parameter) else value


@_rule("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad2d")
def _pad(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    shadow, widths = tracer.shadow(args[0]), args[1]
    if shadow is None:
        return unknown(tracer, node, args)
    mode = args[2] if node.target is torch.ops.aten.pad.default and len(args) > 2 else "constant"
    padded_dims = [shadow.ndim - 1 - i // 2 for i, width in enumerate(widths) if width]
    if all(_constant_along(tracer, shadow, dim) for dim in padded_dims):
        # Spatial padding: zeros, or repeats of a channel's own values, still belong to that channel.
        return _grow(shadow, node.meta["val"].shape)
    if mode != "constant" or "reflection" in str(node.target) or "replication" in str(node.target):
        return unknown(tracer, node, args)
    filler = int(tracer.labels.constant((1,), "meets channels that are padded with zeros"))
    return torch.nn.functional.pad(shadow, widths, value=filler)


def _constant_along(tracer: Tracer, shadow: Tensor, dim: int) -> bool:
    first = shadow.narrow(dim, 0, 1)
    if bool((shadow == first).all()):
        return True
    return bool((tracer.labels.roots(shadow) == tracer.labels.roots(first)).all())


def _grow(shadow: Tensor, shape: torch.Size) -> Tensor:
    for dim, (have, want) in enumerate(zip(shadow.shape, shape, strict=True)):
        if have != want:
            shadow = shadow.narrow(dim, 0, 1).expand(*[want if d == dim else s for d, s in enumerate(shadow.shape)])
    return shadow


@_rule("add", "sub", "mul", "div", "maximum", "minimum", "rsub", "where", "addcmul", "addcdiv", "pow", "lerp", "prelu")
def _elementwise(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    operands = [shadow for shadow in map(tracer.shadow, args) if shadow is not None]
    shape = tuple(node.meta["val"].shape)
    if not operands or not shape:
        return tracer.constant_like(node, "is a scalar")
    if "prelu" in str(node.target):
        operands[1] = operands[1].reshape(1, -1, *[1] * (operands[0].ndim - 2)) if operands[1:] else operands[0]
    is_sum = any(word in str(node.target) for word in ("add", "sub", "lerp")) and "addc" not in str(node.target)
    result: Tensor | None = None
    for operand in _without_broadcast_over_units(tracer, operands, shape):
        if result is None:
            result = operand.expand(shape)
        else:
            tracer.labels.tie(result, operand.expand(shape), stream=is_sum)
    assert result is not None
    return result


def _without_broadcast_over_units(tracer: Tracer, operands: list[Tensor], shape: tuple[int, ...]) -> list[Tensor]:
    """Drop operands of which one entry meets many units: it stays whole, and so binds none of them."""
    kept = []
    for operand in operands:
        padded = operand.reshape(*[1] * (len(shape) - operand.ndim), *operand.shape)
        stretched = [d for d, size in enumerate(shape) if padded.shape[d] == 1 and size > 1]
        others = [other for other in operands if other is not operand]
        meets_many = any(
            not _constant_along(tracer, other.expand(shape), dim)
            for other in others
            for dim in stretched
            if other.ndim >= len(shape) - dim
        )
        if meets_many:
            tracer.labels.freeze(operand, "one value meets many units")
            _freeze_shared(tracer, padded, others, shape)
        else:
            kept.append(operand)
    return kept or [tracer.labels.constant(shape, "is made of values that each meet many units")]


def _freeze_shared(tracer: Tracer, padded: Tensor, others: list[Tensor], shape: tuple[int, ...]) -> None:
    """Units that meet one value of their own each, but share it with others, cannot go one by one."""
    for other in others:
        for dim, size in enumerate(padded.shape):
            if size > 1 and not _constant_along(tracer, other.expand(shape), dim):
                tracer.labels.freeze(other, _SHARED)


@_rule("mean", "sum", "amax", "amin", "var", "std", "linalg_vector_norm", "max", "logsumexp")
def _reduce(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    shadow = tracer.shadow(args[0])
    position = 2 if "vector_norm" in str(node.target) else 1
    dims: Any = args[position] if len(args) > position else node.kwargs.get("dim")
    result = node.meta["val"]
    if shadow is None or dims is None or not isinstance(result, Tensor):
        return unknown(tracer, node, args)
    over = [dims % shadow.ndim] if isinstance(dims, int) else [dim % shadow.ndim for dim in dims]
    if not all(_constant_along(tracer, shadow, dim) for dim in over):
        reason = f"{node.target} makes one value of many units, as a norm written out in operators does"
        tracer.freeze_inputs(args, reason)
        return tracer.constant_like(node, reason)
    for dim in over:
        shadow = shadow.narrow(dim, 0, 1)
    return shadow.reshape(result.shape)


@_rule("softmax", "log_softmax", "_softmax", "cumsum")
def _mix_along(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    shadow = tracer.shadow(args[0])
    if shadow is None or not _constant_along(tracer, shadow, args[1] % shadow.ndim):
        return unknown(tracer, node, args)
    return shadow


@_rule(*POOLING.split())
def _per_channel(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    shadow, result = tracer.shadow(args[0]), node.meta["val"]
    spatial = 1 if "1d" in str(node.target) else 3 if "3d" in str(node.target) else 2
    if shadow is None or shadow.ndim != spatial + 2:
        return unknown(tracer, node, args)
    channels = tracer.per_index(shadow, 1).reshape(1, -1, *[1] * spatial)
    if isinstance(result, (list, tuple)):
        return [channels.expand(result[0].shape), tracer.labels.constant(tuple(result[1].shape), "is an index")]
    return channels.expand(result.shape)
