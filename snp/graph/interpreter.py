"""How is an exported graph run on labels instead of activations?"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from snp.graph import channelwise, convolutions, layers, products, recurrent
from snp.graph.operators import RULES, TURNED, unknown
from snp.graph.pointwise import elementwise
from snp.graph.traced import Parameter, Turned, refuse_sizes_of_values
from snp.graph.tracer import Rule, Tracer

__all__ = ["propagate"]

assert all((channelwise, convolutions, layers, products, recurrent)), "their rules are entered as they are imported"
_NO_EFFECT = ("_assert", "sym_constrain", "_guards")

# Operators that repeat a tensor along a dimension, or make a new one.
_SPREADING = ("expand", "repeat", "broadcast", "full", "zeros", "ones")


def propagate(program: torch.export.ExportedProgram, tracer: Tracer, first_names: Mapping[str, str]) -> None:
    """Run every node of a program by the rule of its operator; what the tracer holds afterwards is what was found.

    Args:
        program: exported from the model.
        tracer: collects labels, ties and costs.
        first_names: every name of a tensor -> the one that it goes by.
    """
    values: dict[fx.Node, Any] = {}
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names = {node: first_names.get(name, name) for node, name in names.items()}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            values[node] = _placeholder(tracer, node, names.get(node.name), node.name in signature.inputs_to_buffers)
            if not isinstance(values[node], Parameter):
                tracer.streams.begin(node)
            if node.name in signature.inputs_to_lifted_tensor_constants:
                tracer.constants[node] = program.constants[signature.inputs_to_lifted_tensor_constants[node.name]]
            if node.name in signature.user_inputs:
                tracer.given.add(node)
        elif node.op == "output":
            for value in fx.node.map_arg(node.args, values.get) or ():
                tracer.freeze_inputs([value], "an output of the network")
        elif node.op == "get_attr":
            held = getattr(program.graph_module, str(node.target), None)
            values[node] = held if isinstance(held, fx.GraphModule) else None
        else:
            values[node] = _apply(tracer, node, values)


def _placeholder(tracer: Tracer, node: fx.Node, name: str | None, is_buffer: bool) -> Any:
    value = node.meta.get("val")
    if name is not None and isinstance(value, Tensor):
        return Parameter(name, tuple(value.shape), is_buffer=is_buffer)
    held = node.name.startswith(("c_", "lifted_tensor"))  # as torch.export calls them
    reason = "a tensor that the code holds, no parameter or buffer" if held else "an input of the network"
    return tracer.labels.constant(tuple(value.shape), reason) if isinstance(value, Tensor) else value


def _is_for_each(node: fx.Node, num_samples: int) -> bool:
    """Does the operator make a row for each sample of what all have in common, as learned queries are expanded?"""
    if num_samples == 1 or not any(word in str(node.target) for word in _SPREADING):
        return False
    sizes = [getattr(each.meta.get("val"), "shape", ())[:1] for each in (node, *node.all_input_nodes)]
    return sizes[0] == (num_samples,) and (num_samples,) not in sizes[1:]


def _apply(tracer: Tracer, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    refuse_sizes_of_values(node)
    tracer.is_given = not tracer.given.isdisjoint(node.all_input_nodes) or _is_for_each(node, tracer.num_samples)
    if tracer.is_given:
        tracer.given.add(node)
    labels = _labels(tracer, node, values)
    tracer.streams.follow(node, node.all_input_nodes, labels)
    tracer.norms.follow(node)
    return labels


def _labels(tracer: Tracer, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    def held(argument: fx.Node) -> Any:
        return _Held(values[argument])

    args = [_unwrap(fx.node.map_arg(argument, held)) for argument in _positional(node)]
    if node.target is operator.getitem:
        return args[0][args[1]] if args[0] is not None else None
    if any(word in str(node.target) for word in _NO_EFFECT):
        return None
    if "wrap_with_autocast" in str(node.target):
        return _apply_region(tracer, node, args)
    if getattr(getattr(node.target, "_schema", None), "name", "") not in TURNED:
        args = [_plain(tracer, argument) for argument in args]
    try:
        labels = _rule_for(node)(tracer, node, args)
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError):
        # A rule that does not fit this use of the operator must not guess.
        return unknown(tracer, node, args)
    return labels if _fits(labels, node.meta.get("val")) else unknown(tracer, node, args)


def _rule_for(node: fx.Node) -> Rule:
    """The rule of an operator: what PyTorch calls element-wise has one rule, whatever its name."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return unknown
    assert isinstance(node.target, torch._ops.OpOverload)
    if torch.Tag.pointwise in node.target.tags:
        return elementwise
    if schema.name in RULES:
        return RULES[schema.name]
    return elementwise if _is_kin_pointwise(schema.name) else unknown


def _is_kin_pointwise(name: str) -> bool:
    """Does another overload carry the tag, or the operator that this one is the in-place form of?"""
    namespace, _, leaf = name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), leaf.rstrip("_"), None)
    overloads = [] if packet is None else [getattr(packet, overload) for overload in packet.overloads()]
    return any(torch.Tag.pointwise in overload.tags for overload in overloads)


def _apply_region(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    """A part of the graph that runs under another precision: its operators as if they stood in the graph itself."""
    region = next((number for number, value in enumerate(args) if isinstance(value, fx.GraphModule)), None)
    if region is None:
        return unknown(tracer, node, args)
    inputs, values = iter(zip(args[region + 1 :], node.args[region + 1 :], strict=False)), dict[fx.Node, Any]()
    for inner in args[region].graph.nodes:
        if inner.op == "placeholder":
            values[inner], outer = next(inputs)
            tracer.streams.follow(inner, [outer] if isinstance(outer, fx.Node) else [])
            if outer in tracer.given:
                tracer.given.add(inner)
        elif inner.op == "output":
            held: Callable[[fx.Node], Any] = lambda argument: _Held(values[argument])  # noqa: E731
            return _unwrap(fx.node.map_arg(inner.args[0], held))
        elif inner.op == "get_attr":
            values[inner] = None
        else:
            values[inner] = _apply(tracer, inner, values)
    return unknown(tracer, node, args)


def _fits(labels: Any, value: Any) -> bool:
    """Do the labels have the shape of the result?"""
    if isinstance(value, (list, tuple)):
        return isinstance(labels, (list, tuple)) and len(labels) == len(value) and all(map(_fits, labels, value))
    if not isinstance(value, Tensor):
        return True
    if isinstance(labels, (Parameter, Turned)):
        return labels.shape == tuple(value.shape)
    return isinstance(labels, Tensor) and labels.shape == value.shape and labels.dtype == torch.int64


def _plain(tracer: Tracer, argument: Any) -> Any:
    """An argument, nested or not, with the elements of parameters that were turned round."""
    if isinstance(argument, list):
        return [_plain(tracer, entry) for entry in argument]
    return tracer.shadow(argument) if isinstance(argument, Turned) else argument


class _Held:
    """Keeps lists of labels whole while arguments are mapped."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _unwrap(argument: Any) -> Any:
    if isinstance(argument, _Held):
        return argument.value
    if isinstance(argument, (list, tuple)):
        return [_unwrap(entry) for entry in argument]
    return argument


def _positional(node: fx.Node) -> list[Any]:
    """Arguments in the order of the operator's schema, keywords put in their places as far as they reach."""
    schema = getattr(node.target, "_schema", None)
    args = list(node.args)
    if schema is None:
        return args + list(node.kwargs.values())
    for argument in schema.arguments[len(args) :]:
        if argument.kwarg_only:
            break
        if argument.name in node.kwargs:
            args.append(node.kwargs[argument.name])
        elif argument.has_default_value():
            args.append(argument.default_value)
        else:
            break
    return args
