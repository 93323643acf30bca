"""How does a model become groups of units?  Export it, run the graph on labels, collect what was tied."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn

from snp.graph.collect import collect_groups
from snp.graph.headgroups import attention_layers, products_of
from snp.graph.layers import RULES
from snp.graph.operators import unknown
from snp.graph.tracer import Parameter, Tracer
from snp.heads import AttentionLayer
from snp.inputs import example_of, num_samples
from snp.units import UnitGroup

__all__ = ["CouplingGraph", "analyse"]

_NO_EFFECT = ("_assert", "sym_constrain", "_guards")


@dataclass(frozen=True, eq=False)
class CouplingGraph:
    """What the analysis found.

    Attributes:
        groups: groups of units that may be cut, in execution order of their first producer.
        frozen: weight name -> why its rows may not be cut, for every producer outside the groups.
        positions: multiply-accumulates per weight element and sample.
        fixed_macs: multiply-accumulates per sample of products without weights that no cut changes.
        readers: names of the weights that read activations, in execution order.
        embeddings: names of the tables that are looked up, a head tied to one of them included.
        attention: attention layers whose heads are understood, where dimensions of heads or heads are asked for.
        products: multiply-accumulates per sample of products inside attention, and the names of the groups whose
            share of kept units they fall with.
    """

    groups: tuple[UnitGroup, ...]
    frozen: dict[str, str]
    positions: dict[str, int]
    fixed_macs: int
    readers: tuple[str, ...]
    embeddings: frozenset[str] = frozenset()
    attention: tuple[AttentionLayer, ...] = ()
    products: tuple[tuple[int, tuple[str, ...]], ...] = ()


def analyse(
    model: nn.Module, batch: Any, structures: Iterable[str] = ("ffn",), *, equal_sizes: bool = False
) -> CouplingGraph:
    """Find the groups of a model from one example batch; nothing is computed, the model is not changed.

    Args:
        model: in evaluation mode, any module that ``torch.export`` accepts.
        batch: an input as the model gets it; its shapes count, its values do not.
        structures: ``vo``, ``qk`` and ``heads`` look for these in attention layers; all else is found in any case.
        equal_sizes: dimensions of queries, keys and values go together, so that their sizes stay equal.

    Raises:
        ValueError: the model cannot be exported.
    """
    assert not model.training, "the analysis describes the network as it is evaluated"
    args, kwargs = example_of(batch)
    try:
        program = torch.export.export(model, args, kwargs, strict=False)
    except Exception as error:
        raise ValueError(
            f"model {type(model).__name__} cannot be exported, so its coupled units are unknown: "
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}. "
            "Make torch.export.export(model, example) pass first."
        ) from error
    wanted, names = frozenset(structures), _first_names(model)
    tracer = Tracer(num_samples(batch), wanted & {"vo", "qk", "heads"}, equal_sizes=equal_sizes)
    _propagate(program, tracer, names)
    groups, frozen = collect_groups(tracer)
    layers = attention_layers(tracer)
    if "heads" in wanted:
        whole = _whole_heads(program, Tracer(num_samples(batch), whole_heads=True), names)
        groups, layers = groups + whole[0], layers or whole[1]
    fixed, products = products_of(tracer, groups)
    return CouplingGraph(
        groups, frozen, tracer.positions, fixed, tuple(tracer.readers), frozenset(tracer.embeddings), layers, products
    )


def _whole_heads(
    program: torch.export.ExportedProgram, tracer: Tracer, names: Mapping[str, str]
) -> tuple[tuple[UnitGroup, ...], tuple[AttentionLayer, ...]]:
    """Groups of whole heads. The first run ties what belongs to a head, the second freezes what mixes heads."""
    tracer.labels.ties_only = True
    _propagate(program, tracer, names)
    tracer.labels.ties_only = False
    tracer.again()
    _propagate(program, tracer, names)
    groups, _ = collect_groups(tracer)
    return tuple(group for group in groups if group.kind == "heads"), attention_layers(tracer)


def _first_names(model: nn.Module) -> dict[str, str]:
    """Every name of a tensor -> the one under which ``named_parameters`` lists it; tied tensors have several."""
    first: dict[int, str] = {}
    names = {}
    for name, tensor in chain(
        model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    ):
        names[name] = first.setdefault(id(tensor), name)
    return names


def _propagate(program: torch.export.ExportedProgram, tracer: Tracer, first_names: Mapping[str, str]) -> None:
    values: dict[fx.Node, Any] = {}
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names = {node: first_names.get(name, name) for node, name in names.items()}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            values[node] = _placeholder(tracer, node, names.get(node.name))
        elif node.op == "output":
            for value in fx.node.map_arg(node.args, values.get) or ():
                tracer.freeze_inputs([value], "an output of the network")
        elif node.op == "get_attr":
            held = getattr(program.graph_module, str(node.target), None)
            values[node] = held if isinstance(held, fx.GraphModule) else None
        else:
            values[node] = _apply(tracer, node, values)


def _placeholder(tracer: Tracer, node: fx.Node, name: str | None) -> Any:
    value = node.meta.get("val")
    if name is not None and isinstance(value, Tensor):
        return Parameter(name, tuple(value.shape))
    reason = "an input of the network" if name is None else f"the fixed tensor {name}"
    return tracer.labels.constant(tuple(value.shape), reason) if isinstance(value, Tensor) else value


def _apply(tracer: Tracer, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    def held(argument: fx.Node) -> Any:
        return _Held(values[argument])

    def resolve(argument: Any) -> Any:
        return fx.node.map_arg(argument, held)

    args = [_unwrap(resolve(argument)) for argument in _positional(node)]
    if node.target is operator.getitem:
        return args[0][args[1]] if args[0] is not None else None
    if any(word in str(node.target) for word in _NO_EFFECT):
        return None
    schema = getattr(node.target, "_schema", None)
    if "wrap_with_autocast" in str(node.target):
        return _apply_region(tracer, node, args)
    rule = RULES.get(schema.name if schema is not None else "", unknown)
    try:
        labels = rule(tracer, node, args)
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError):
        # A rule that does not fit this use of the operator must not guess.
        return unknown(tracer, node, args)
    return labels if _fits(labels, node.meta.get("val")) else unknown(tracer, node, args)


def _apply_region(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    """A part of the graph that runs under another precision: its operators as if they stood in the graph itself."""
    region = next((number for number, value in enumerate(args) if isinstance(value, fx.GraphModule)), None)
    if region is None:
        return unknown(tracer, node, args)
    inputs, values = iter(args[region + 1 :]), dict[fx.Node, Any]()
    for inner in args[region].graph.nodes:
        if inner.op == "placeholder":
            values[inner] = next(inputs)
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
    return isinstance(labels, Tensor) and labels.shape == value.shape and labels.dtype == torch.int64


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
