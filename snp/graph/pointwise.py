"""What do operators do to units that work element by element?  The units that meet at an element go together."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from snp.graph.aten import ALIKE
from snp.graph.operators import constant_along, rule, unknown
from snp.graph.traced import Parameter
from snp.graph.tracer import Tracer

__all__ = ["elementwise"]

_SHARED = "shares values with units of another head or group, as with rotary embeddings"
_SUMS = ("add", "sub", "lerp", "rsub", "addcmul", "addcdiv")


@rule(*ALIKE.split())
def _alike(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    if "copy_" in str(node.target).partition(".")[2] and isinstance(args[1], (Tensor, Parameter)):
        return elementwise(tracer, node, args[:2])  # what is written over keeps its place
    shadow = tracer.shadow(args[0])
    return _scalar(tracer, node, args) if shadow is None else shadow


@rule("prelu", "_prelu_kernel")
def _prelu(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    """The slope lies along channels, whatever the number of dimensions."""
    shadow, slope = tracer.shadow(args[0]), tracer.shadow(args[1])
    if shadow is None or slope is None:
        return elementwise(tracer, node, args[:1])
    return elementwise(tracer, node, [shadow, slope.reshape(1, -1, *[1] * (shadow.ndim - 2))])


@rule("where", "masked_fill", "__and__", "__or__", "complex", "polar")
def elementwise(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    """Of any number of operands that broadcast: what :class:`torch.Tag` calls pointwise."""
    operands = [shadow for shadow in map(tracer.shadow, args) if shadow is not None]
    shape = tuple(node.meta["val"].shape)
    for value in args:
        if isinstance(value, Tensor) and value.ndim == 0:
            tracer.labels.freeze(value, "one value meets many units")
    if not operands or not shape:
        return _scalar(tracer, node, args)
    if _writes_over_blanks(tracer, node, operands):
        return unknown(tracer, node, args)
    result: Tensor | None = None
    for operand in _without_broadcast_over_units(tracer, operands, shape):
        if result is None:
            result = operand.expand(shape)
        else:
            tracer.labels.tie(result, operand.expand(shape))
            result = tracer.labels.merged(result, operand.expand(shape))
    assert result is not None
    if tracer.streams.is_residual(_terms(node)):
        tracer.labels.mark_stream(result)
    return result


def _scalar(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    tracer.freeze_inputs([value for value in args if isinstance(value, Tensor)], "is a scalar")
    return tracer.constant_like(node, "is a scalar")


def _writes_over_blanks(tracer: Tracer, node: fx.Node, operands: list[Tensor]) -> bool:
    """Are units written into memory that was made without any, and is read under another name later on?"""
    written = tracer.labels.is_blank(operands[0])
    is_inplace = str(node.target).rpartition(".")[0].endswith("_")
    return is_inplace and bool(written.any()) and not all(bool(tracer.labels.is_blank(o).all()) for o in operands)


def _terms(node: fx.Node) -> list[list[fx.Node]]:
    """What a sum adds up, each term as the nodes whose product it is; nothing for other operators."""
    name = str(node.target).partition(".")[2].partition(".")[0].rstrip("_")
    if name not in _SUMS:
        return []
    parts = [[part] if isinstance(part, fx.Node) else [] for part in node.args]
    return [parts[0], [*parts[1], *parts[2]]] if name in ("addcmul", "addcdiv") else parts[:2]


def _without_broadcast_over_units(tracer: Tracer, operands: list[Tensor], shape: tuple[int, ...]) -> list[Tensor]:
    """Drop operands of which one entry meets many units: it stays whole, and so binds none of them."""
    kept = []
    for operand in operands:
        padded = operand.reshape(*[1] * (len(shape) - operand.ndim), *operand.shape)
        stretched = [d for d, size in enumerate(shape) if padded.shape[d] == 1 and size > 1]
        others = [other for other in operands if other is not operand]
        meets_many = any(
            not constant_along(tracer, other.expand(shape), dim)
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
            if size > 1 and not constant_along(tracer, other.expand(shape), dim):
                tracer.labels.freeze(other, _SHARED)
