"""Which groups are left alone whatever a cut would save, and why?"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from snp.graph.analysis import CouplingGraph
from snp.graph.batches import Batch
from snp.graph.plain_attention import plain_attention
from snp.graph.units import UnitGroup
from snp.measure.readers import Reader, readers_to_measure
from snp.measure.taps import Taps
from snp.settings import PruneSettings

__all__ = ["unmeasured", "why_left_alone"]


def why_left_alone(model: nn.Module, group: UnitGroup, settings: PruneSettings) -> str | None:
    """Why a group that ``ignore`` does not name takes no part; None where it does.

    Args:
        model: owns the weights.
        group: of the model.
        settings: ``streams`` and ``structures`` select groups.
    """
    if group.is_stream and group.kind != "width" and not settings.streams:
        return "a residual stream (prune.streams=true cuts it)"
    if group.kind == "ffn" and "ffn" not in settings.cut_structures:
        return "prune.structures leaves out ffn"
    if group.kind in ("qk", "vo", "dims") and not _is_pointwise(model, group):
        return "dimensions of heads that convolutions of more than one position make"
    complex_ones = [m.tensor for m in group.consumers if model.get_parameter(m.tensor).is_complex()]
    if complex_ones:
        return f"read by the complex numbers of {complex_ones[0]}, where nothing is measured or fitted"
    return None


def _is_pointwise(model: nn.Module, group: UnitGroup) -> bool:
    """Is every projection of a group a matrix?"""
    names = {member.tensor for member in group.producers + group.consumers}
    return all(model.get_parameter(name)[0, 0].numel() == 1 for name in names)


def unmeasured(
    model: nn.Module, graph: CouplingGraph, groups: Iterable[UnitGroup], example: Batch, settings: PruneSettings
) -> dict[str, str]:
    """Name -> reason for groups that are read where nobody can look: inside one function of PyTorch, as a whole.

    Args:
        model: in evaluation mode; it is run on the example where some weight is read by other code than its module's.
        graph: knows how weights are read.
        groups: of the model.
        example: one or two samples.
        settings: of the prune.
    """
    readers = readers_to_measure(model, graph, groups, settings)
    # Hooks see the others; an expert may get no token of the example.
    looked_at = {name: reader for name, reader in readers.items() if reader.by_operator and not reader.is_routed}
    hidden = looked_at.keys() - _seen(model, looked_at, example)
    found = {}
    for group in groups if hidden else ():
        names = [member.tensor for member in group.consumers]
        for layer in graph.attention if group.is_multiplied else ():
            names += [layer.query.tensor, layer.key.tensor] if layer.query.is_in(group.producers) else []
        unseen = [name for name in names if name in hidden]
        if unseen:
            found[group.name] = _unseen(model, readers[unseen[0]])
    return found


def _seen(model: nn.Module, readers: dict[str, Reader], example: Batch) -> set[str]:
    """Names of the readers whose inputs can be looked at."""
    seen = set[str]()
    if readers:
        with torch.no_grad(), Taps(model, readers, before=lambda name, values: seen.add(name)):
            example.call(model)
    return seen


def _unseen(model: nn.Module, reader: Reader) -> str:
    has_plain_form = plain_attention(model.get_submodule(reader.module)) is not None
    remedy = " (prune.structures with vo or qk writes this attention in plain layers)" if has_plain_form else ""
    where = f"a function of PyTorch that {reader.module or 'the network'} calls"
    return f"read by {reader.weight} inside {where}, where nothing can be measured{remedy}"
