"""Where do weights and biases of norms go, and factors of what is added to a stream?  Into the layers beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from snp.graph import CouplingGraph
from snp.graph.units import UnitGroup, module_of

__all__ = ["into_readers", "into_writer"]


def into_readers(
    model: nn.Module, weights: Mapping[str, Tensor], graph: CouplingGraph, group: UnitGroup, norm: str
) -> dict[str, Tensor]:
    """What reads behind a norm, with the norm's weight and bias in it.

    Where a reader has no bias of its own the norm keeps one, in front of what is now in the readers.

    Args:
        model: owns the layers.
        weights: name -> tensor as it is so far, float64.
        graph: knows what reads behind the norm.
        group: the stream.
        norm: name of the norm's weight.

    Returns:
        Name -> tensor of what changes, but for the norm's weight.

    Raises:
        ValueError: a bias would have to be divided by zero.
    """
    found: dict[str, Tensor] = {}
    scale, bias_name = weights[norm], f"{module_of(norm)}.bias"
    bias = weights.get(bias_name)
    readers = [member for member in group.consumers if graph.norms.get(member.tensor) == norm]
    biases = {member.tensor: _bias_of(model, member.tensor) for member in readers}
    keeps = bias is not None and bool(bias.any()) and not all(biases.values())
    for member in readers:
        rows = weights[member.tensor].movedim(member.dim, -1)
        found[member.tensor] = (rows * scale).movedim(-1, member.dim)
        own = biases[member.tensor]
        if bias is not None and own is not None and not keeps:
            found[own] = found.get(own, weights[own]) + rows.flatten(1) @ bias
    if bias is not None:
        if keeps and bool((scale.abs() < 1e-6 * scale.abs().max())[bias != 0].any()):
            raise ValueError(
                f"prune.structures: width cannot be cut, because {module_of(norm)} has weights of zero with biases "
                "that a layer without a bias reads; leave width out"
            )
        found[bias_name] = torch.where(bias == 0, 0.0, bias / scale) if keeps else torch.zeros_like(bias)
    return found


def into_writer(model: nn.Module, weights: Mapping[str, Tensor], graph: CouplingGraph, scale: str) -> dict[str, Tensor]:
    """The layer whose outputs are scaled, with the factors in it.

    Args:
        model: owns the layers.
        weights: name -> tensor as it is so far, float64.
        graph: knows which layer that is.
        scale: name of the factors.

    Returns:
        Name -> tensor of what changes, but for the factors.

    Raises:
        ValueError: there is no such layer.
    """
    writer = graph.scaled.get(module_of(scale))
    if writer is None:
        raise ValueError(
            f"prune.structures: width cannot be cut, because {module_of(scale)} scales the outputs of no single layer, "
            "which could take its factors; leave width out"
        )
    dim, bias = graph.readings[writer].output_dim, _bias_of(model, writer)
    found = {writer: (weights[writer].movedim(dim, -1) * weights[scale]).movedim(-1, dim)}
    return found if bias is None else found | {bias: weights[bias] * weights[scale]}


def _bias_of(model: nn.Module, weight: str) -> str | None:
    """Name of the bias of the layer that a weight belongs to."""
    module: Any = model.get_submodule(module_of(weight))
    return f"{module_of(weight)}.bias" if isinstance(getattr(module, "bias", None), nn.Parameter) else None
