"""What do operators do to units that work element by element?  The units that meet at an element go together."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from snp.graph.aten import ALIKE
from snp.graph.labels import distinct
from snp.graph.operators import constant_along, rule, unknown
from snp.graph.rotary import SHARED, table_of, turned_by_table
from snp.graph.traced import Parameter
from snp.graph.tracer import Tracer

__all__ = ["elementwise", "tied", "without_broadcast_over_units"]

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
    if (scores := _scores_beside_constants(tracer, operands, shape)) is not None:
        return scores
    for rotary in (table_of(tracer, node, operands), turned_by_table(tracer, node, operands, shape)):
        if rotary is not None:
            return rotary
    # Labels of activations stand for a layer's outputs, those of a scale before them do not.
    ordered = [tracer.shadow(value) for value in sorted(args, key=lambda value: isinstance(value, Parameter))]
    operands = [shadow for shadow in ordered if shadow is not None]
    result = tied(tracer, without_broadcast_over_units(tracer, operands, shape), shape)
    if tracer.streams.is_residual(_terms(node)) and not _are_multiples(tracer, _terms(node), result):
        tracer.labels.mark_stream(result)
    return result


def _scores_beside_constants(tracer: Tracer, operands: list[Tensor], shape: tuple[int, ...]) -> Tensor | None:
    """Scores of attention that meet masks or slopes of distances, which bind no head; None for all else."""
    scores = [own for own in operands if tracer.scores and set(distinct(own)) <= tracer.scores.keys()]
    others = [own for own in operands if not any(own is one for one in scores)]
    if len(scores) != 1 or tuple(scores[0].shape) != shape or not all(map(tracer.labels.are_constant, others)):
        return None
    return scores[0]


def _are_multiples(tracer: Tracer, terms: list[list[fx.Node]], result: Tensor) -> bool:
    """Is every term of a sum a multiple of one value of the same units, or zero?"""
    if any(tracer.streams.common([term]) is None for term in terms):
        return True
    units = set(distinct(tracer.labels.roots(result)))
    factors = [tracer.streams.labels.get(node) for node in tracer.streams.common(terms) or ()]
    return any(isinstance(labels, Tensor) and units == set(distinct(tracer.labels.roots(labels))) for labels in factors)


def tied(tracer: Tracer, operands: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    """Labels of operands that meet element by element, broadcast to a shape."""
    result: Tensor | None = None
    for operand in operands:
        if result is None:
            result = operand.expand(shape)
        else:
            tracer.labels.tie(result, operand.expand(shape))
            result = tracer.labels.merged(result, operand.expand(shape))
    assert result is not None
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


def without_broadcast_over_units(tracer: Tracer, operands: list[Tensor], shape: tuple[int, ...]) -> list[Tensor]:
    """Drop operands of which one entry meets many units: it stays whole, and so binds none of them.

    Where that is so of all of them (every unit of one with every unit of another), the one with most units stays.
    """
    padded = [operand.reshape(*[1] * (len(shape) - operand.ndim), *operand.shape) for operand in operands]
    for number, own in enumerate(padded):
        if _is_untied_parameter(tracer, own):
            _give_rows(tracer, own, padded[:number] + padded[number + 1 :])
    dropped = [
        number
        for number, operand in enumerate(padded)
        if _meets_many(tracer, operand, padded[:number] + padded[number + 1 :], shape)
    ]
    if len(dropped) == len(padded) > 1:
        dropped.remove(max(dropped, key=lambda number: _num_open(tracer, padded[number])))
    for number in dropped:
        tracer.labels.freeze(padded[number], "one value meets many units")
        _freeze_shared(tracer, padded[number], padded[:number] + padded[number + 1 :], shape)
    kept = [operand for number, operand in enumerate(padded) if number not in dropped]
    return kept or [tracer.labels.constant(shape, "is made of values that each meet many units")]


def _is_untied_parameter(tracer: Tracer, labels: Tensor) -> bool:
    """Are these elements of a parameter that met nothing so far?"""
    first = labels[(0,) * labels.ndim]
    owned = any(0 <= first - own[(0,) * own.ndim] < own.numel() for own in tracer.elements.values())
    return owned and tracer.labels.are_alone(labels)


def _give_rows(tracer: Tracer, own: Tensor, others: list[Tensor]) -> None:
    """Each unit's entry meets several entries of a parameter (a state each, say): these belong to the unit."""
    for other in others:
        rows = [
            d for d in range(own.ndim) if own.shape[d] == other.shape[d] > 1 and not constant_along(tracer, other, d)
        ]
        for dim in range(own.ndim) if rows else ():
            if own.shape[dim] > 1 == other.shape[dim]:
                tracer.labels.tie(own.narrow(dim, 0, 1).expand_as(own), own)


def _meets_many(tracer: Tracer, operand: Tensor, others: list[Tensor], shape: tuple[int, ...]) -> bool:
    """Is one entry of an operand put beside several units of another one?"""
    stretched = [dim for dim, size in enumerate(shape) if operand.shape[dim] == 1 and size > 1]
    return any(not constant_along(tracer, other.expand(shape), dim) for other in others for dim in stretched)


def _num_open(tracer: Tracer, operand: Tensor) -> int:
    """Units that may still be cut."""
    return sum(tracer.labels.frozen_reason(root) is None for root in distinct(tracer.labels.roots(operand)))


def _freeze_shared(tracer: Tracer, padded: Tensor, others: list[Tensor], shape: tuple[int, ...]) -> None:
    """Units that meet one value of their own each, but share it with others, cannot go one by one."""
    for other in others:
        for dim, size in enumerate(padded.shape):
            if size > 1 and not constant_along(tracer, other.expand(shape), dim):
                tracer.labels.freeze(other, SHARED)
