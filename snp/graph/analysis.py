"""How does a model become groups of units?  Export it, run the graph on labels, collect what was tied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import torch
from torch import nn

from snp.graph.batches import Batch
from snp.graph.caches import remedy_of_cache
from snp.graph.collect import collect_groups
from snp.graph.headgroups import attention_layers, products_of
from snp.graph.heads import AttentionLayer
from snp.graph.interpreter import propagate
from snp.graph.once import count_for_each
from snp.graph.plain_experts import PlainExperts, experts_around
from snp.graph.program import program_of
from snp.graph.splits import with_counts
from snp.graph.tracer import Tracer
from snp.graph.units import Reading, UnitGroup, module_of
from snp.graph.untied import untied_heads

__all__ = ["CouplingGraph", "analyse"]


@dataclass(frozen=True, eq=False)
class CouplingGraph:
    """What the analysis found.

    Attributes:
        groups: groups of units that may be cut, in execution order of their first producer.
        frozen: weight name -> why its rows may not be cut, for every producer outside the groups.
        positions: multiply-accumulates per weight element and sample, no whole number where samples share values.
        readings: weight name -> how it reads activations.
        fixed_macs: multiply-accumulates per sample of products without weights that no cut changes.
        readers: names of the weights that read activations, in execution order.
        embeddings: names of the tables that are looked up, a head tied to one of them included.
        attention: attention layers whose heads are understood, where dimensions of heads or heads are asked for.
        products: multiply-accumulates per sample of products inside attention, and the names of the groups whose
            share of kept units they fall with.
        norms: weight -> weight of the norm of a stream that it reads behind (:mod:`snp.graph.stream_norms`); None
            where it reads several, or something that was made of one.
        scaled: module -> weight of the layer whose outputs it multiplies by a parameter.
        unread: names of the parameters that no operator reads.
    """

    groups: tuple[UnitGroup, ...]
    frozen: dict[str, str]
    positions: dict[str, float]
    fixed_macs: int
    readers: tuple[str, ...]
    readings: dict[str, Reading] = field(default_factory=dict)
    embeddings: frozenset[str] = frozenset()
    attention: tuple[AttentionLayer, ...] = ()
    products: tuple[tuple[int, tuple[str, ...]], ...] = ()
    norms: dict[str, str | None] = field(default_factory=dict)
    scaled: dict[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


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
    example, wanted, names = Batch.of(batch).beside(model), frozenset(structures), _first_names(model)
    program = _exported(model, example)
    propagate(program, tracer := _tracer(model, example, wanted, equal_sizes=equal_sizes), names)
    groups, frozen = collect_groups(tracer)
    groups, layers = with_counts(model, tracer, groups), attention_layers(tracer)
    if "heads" in wanted:
        whole = _whole_heads(program, example.size, tracer.aliases, names)
        groups, layers = groups + whole[0], layers or whole[1]
    groups = tuple(replace(group, twins=_twins(model, group)) for group in groups)
    count_for_each(model, example, tracer)
    fixed, products = products_of(tracer, groups)
    return CouplingGraph(
        groups,
        frozen,
        _positions(model, tracer),
        fixed,
        tuple(tracer.readers),
        tracer.readings,
        frozenset(tracer.embeddings) | untied_heads(model),
        layers,
        products,
        norms=tracer.norms.found,
        scaled=tracer.norms.scaled,
        unread=_unread(model, program, names),
    )


def _unread(model: nn.Module, program: torch.export.ExportedProgram, first_names: Mapping[str, str]) -> tuple[str, ...]:
    read = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    held = {
        first_names.get(name, name)
        for node, name in program.graph_signature.inputs_to_parameters.items()
        if node in read
    }
    return tuple(name for name, _ in model.named_parameters() if name not in held)


def _tracer(model: nn.Module, example: Batch, wanted: frozenset[str], *, equal_sizes: bool) -> Tracer:
    tracer = Tracer(example.size, wanted & {"vo", "qk", "heads"}, equal_sizes=equal_sizes)
    tracer.aliases = _first_modules(model)
    return tracer


def _positions(model: nn.Module, tracer: Tracer) -> dict[str, float]:
    """Multiply-accumulates per weight element and sample."""
    return {name: count * _routed(model, name) / tracer.num_samples for name, count in tracer.positions.items()}


def _exported(model: nn.Module, example: Batch) -> torch.export.ExportedProgram:
    try:
        return program_of(model, example)
    except Exception as error:
        raise ValueError(
            f"model {type(model).__name__} cannot be exported, so its coupled units are unknown: "
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}. "
            f"{_remedy(error)}"
        ) from error


def _remedy(error: Exception) -> str:
    """What to try where a model cannot be exported."""
    if "datadependent" in type(error).__name__.lower():
        return (
            "Its code asks for values, not for shapes alone, as a detector's selection of boxes does: prune a module "
            "that holds the layers before that (a detector's backbone and head), and put them back in their places."
        )
    if remedy := remedy_of_cache(error):
        return f"{remedy}."
    return "Make torch.export.export(model, example) pass first."


def _whole_heads(
    program: torch.export.ExportedProgram, num_samples: int, aliases: dict[str, str], names: Mapping[str, str]
) -> tuple[tuple[UnitGroup, ...], tuple[AttentionLayer, ...]]:
    """Groups of whole heads. The first run ties what belongs to a head, the second freezes what mixes heads."""
    tracer = Tracer(num_samples, whole_heads=True)
    tracer.aliases, tracer.labels.ties_only = aliases, True
    propagate(program, tracer, names)
    tracer.labels.ties_only = False
    tracer.again()
    propagate(program, tracer, names)
    groups, _ = collect_groups(tracer)
    return tuple(group for group in groups if group.kind == "heads"), attention_layers(tracer)


def _twins(model: nn.Module, group: UnitGroup) -> str:
    """Name of the mixture of experts that a group lies in; empty where it lies in none."""
    around = {experts_around(model, module_of(member.tensor)) for member in group.members}
    return around.pop() or "" if len(around) == 1 else ""


def _routed(model: nn.Module, weight: str) -> float:
    """The share of all tokens that a weight reads."""
    name = experts_around(model, module_of(weight))
    experts = None if name is None else model.get_submodule(name)
    return experts.share if isinstance(experts, PlainExperts) else 1.0


def _first_modules(model: nn.Module) -> dict[str, str]:
    """Every name of a module -> the first one; a module that is called under several names has several."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(module), name) for name, module in model.named_modules(remove_duplicate=False)}


def _first_names(model: nn.Module) -> dict[str, str]:
    """Every name of a tensor -> the one under which ``named_parameters`` lists it; tied tensors have several."""
    first: dict[int, str] = {}
    names = {}
    for name, tensor in chain(
        model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    ):
        names[name] = first.setdefault(id(tensor), name)
    return names
