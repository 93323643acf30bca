"""Which groups of a network take part in a prune, and what is to be measured?"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from torch import nn

from snp.graph import CouplingGraph, analyse
from snp.graph.readers import Reader, readers_of
from snp.selfcheck import confirm
from snp.settings import PruneSettings
from snp.units import UnitGroup

__all__ = ["Subject", "subject_of"]


@dataclass(frozen=True, eq=False)
class Subject:
    """A network that was analysed and is ready to be calibrated.

    Attributes:
        model: the dense network in evaluation mode.
        graph: what the analysis found.
        groups: the groups that take part.
        frozen: name -> reason for everything that does not.
        readers: what is to be measured, by weight name.
        example: a small batch on the model's device.
    """

    model: nn.Module
    graph: CouplingGraph
    groups: tuple[UnitGroup, ...]
    frozen: dict[str, str]
    readers: dict[str, Reader]
    example: Any


def subject_of(model: nn.Module, example: Any, settings: PruneSettings) -> Subject:
    """Analyse a network and select the groups that take part.

    Args:
        model: in evaluation mode; kept, not copied.
        example: one or two samples on the model's device.
        settings: ``ignore`` and ``streams`` select groups.

    Raises:
        ValueError: nothing in the network can be cut.
    """
    graph = analyse(model, example)
    frozen = dict(graph.frozen)
    selected = []
    for group in graph.groups:
        if any(fnmatch(group.name, pattern) for pattern in settings.ignore):
            frozen[group.name] = "named by prune.ignore"
        elif group.is_stream and not settings.streams:
            frozen[group.name] = "a residual stream (prune.streams=true cuts it)"
        else:
            selected.append(group)
    groups, refused = confirm(model, selected, example)
    frozen |= refused
    if not groups:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(frozen.items())[:5])
        raise ValueError(f"nothing in {type(model).__name__} can be cut: {reasons or 'no layer reads another'}")
    return Subject(
        model,
        graph,
        groups,
        frozen,
        readers_of(model, graph, groups, settings.moment_gram, settings.largest_patch),
        example,
    )
