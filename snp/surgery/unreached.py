"""Which layers do calibration's inputs not reach, so that calls that do may not fit the small network?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from snp.graph.analysis import CouplingGraph
from snp.graph.batches import Batch
from snp.graph.units import UnitGroup
from snp.surgery.call_trace import called_modules
from snp.surgery.surgery import named_tensors
from snp.surgery.training_mode import called_in_training

__all__ = ["beside_cuts", "unreached_layers"]


def unreached_layers(model: nn.Module, graph: CouplingGraph, batch: Batch) -> tuple[str, ...]:
    """Names of the modules whose own parameters no traced path reads and that are not called, in order.

    Neither in evaluation mode nor, where the network runs without labels, in training mode: what is there in training
    only is tried there (:mod:`snp.surgery.training_mode`).

    Args:
        model: in evaluation mode.
        graph: knows which parameters are read.
        batch: one or two samples.
    """
    unread, first = set(graph.unread), {id(tensor): name for name, tensor in model.named_parameters()}
    found = [
        name
        for name, module in model.named_modules()
        if (own := [first[id(tensor)] for tensor in module.parameters(recurse=False)]) and unread.issuperset(own)
    ]
    if not found:
        return ()
    with torch.no_grad(), called_modules(model) as called:
        batch.call(model)
    reached = called | called_in_training(model, batch)
    return tuple(name for name in found if name not in reached)


def beside_cuts(model: nn.Module, unreached: Sequence[str], groups: Iterable[UnitGroup]) -> tuple[str, ...]:
    """Those of the layers that could meet units of some groups: a size of theirs is that of a layer in a group.

    Args:
        model: the dense network.
        unreached: from :func:`unreached_layers`.
        groups: that lose units. What is inside of heads meets nothing else.
    """
    tensors = named_tensors(model) if unreached else {}
    sizes = {
        tensors[member.tensor].shape[member.dim] * member.num_blocks
        for group in (groups if unreached else ())
        if group.kind in ("conv", "ffn", "width")
        for member in group.members
    }
    shapes = {name: [p.shape[:2] for p in model.get_submodule(name).parameters(recurse=False)] for name in unreached}
    return tuple(name for name in unreached if not sizes.isdisjoint(size for shape in shapes[name] for size in shape))
