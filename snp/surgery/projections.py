"""Which layers of an attention module make queries, keys and values, and how do they lie in the outputs of one?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from snp.graph.heads import AttentionLayer
from snp.graph.units import Slice, module_of
from snp.surgery.module_sizes import is_turned

__all__ = ["Projections", "is_matrix", "projections_of"]


@dataclass(frozen=True)
class Projections:
    """Linear layers of a module.

    Attributes:
        names: of three layers, for queries, keys and values, or of one for all of them.
        by_head: of one layer: are its outputs divided by head of keys first, each with its queries, its keys and its
            values (GPT-NeoX, Falcon)? Else all queries come first, then all keys, then all values (GPT-2, Phi-3).
        num_shared: heads of queries on each head of keys.
    """

    names: tuple[str, ...]
    by_head: bool
    num_shared: int

    @property
    def is_fused(self) -> bool:
        """Does one layer make all three?"""
        return len(self.names) == 1

    def divided(self, outputs: Tensor, query_size: int, value_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [..., H, D], keys [..., K, D] and values [..., K, V] of what one layer gives out, [..., O]."""
        size = (self.num_shared + 1) * query_size + value_size
        blocks = outputs.unflatten(-1, (-1, size)) if self.by_head else outputs.unsqueeze(-2)
        num_heads = blocks.shape[-1] // size
        sizes = [num_heads * self.num_shared * query_size, num_heads * query_size, num_heads * value_size]
        query, key, value = (
            part.unflatten(-1, (-1, width)).flatten(-3, -2)
            for part, width in zip(blocks.split(sizes, dim=-1), (query_size, query_size, value_size), strict=True)
        )
        return query, key, value


def is_matrix(layer: nn.Module) -> bool:
    """Is it a linear layer, be its weight turned round as in GPT-2?"""
    return isinstance(layer, nn.Linear) or (is_turned(layer) and not isinstance(layer, nn.modules.conv._ConvNd))


def projections_of(module: nn.Module, layer: AttentionLayer) -> Projections | None:
    """The layers of a module that attends, as it is before a cut; None where they lie in another way."""
    prefix = f"{layer.module}."
    parts = (layer.query, layer.key, layer.value)
    names = list(dict.fromkeys(module_of(rows.tensor) for rows in parts))
    if not all(name.startswith(prefix) and rows.tensor.endswith(".weight") for name, rows in _named(names, parts)):
        return None
    inner = tuple(name.removeprefix(prefix) for name in names)
    if not all(is_matrix(module.get_submodule(name)) for name in inner):
        return None
    num_keys = len(layer.key.index.unique(dim=0))
    num_shared = len(layer.query.index) // num_keys
    if len(inner) == 3:
        return Projections(inner, False, num_shared)
    for by_head in (False, True) if len(inner) == 1 else ():
        found = Projections(inner, by_head, num_shared)
        if _fits(found, layer, num_keys):
            return found
    return None


def _named(names: list[str], parts: tuple[Slice, ...]) -> list[tuple[str, Slice]]:
    return [(name, rows) for name in names for rows in parts if module_of(rows.tensor) == name]


def _fits(projections: Projections, layer: AttentionLayer, num_keys: int) -> bool:
    """Do all rows lie as these projections divide them?"""
    query_size, value_size = layer.query.width, layer.value.width
    rows = torch.arange(num_keys * ((projections.num_shared + 1) * query_size + value_size))
    query, key, value = projections.divided(rows, query_size, value_size)
    if len(query) != len(layer.query.index):
        return False
    repeated = (part.repeat_interleave(projections.num_shared, dim=0) for part in (key, value))
    wanted = (layer.query.index, layer.key.index, layer.value.index)
    return all(torch.equal(part, index) for part, index in zip((query, *repeated), wanted, strict=True))
