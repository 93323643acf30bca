"""What will the network cost once units are cut?  Exact counts from shapes, without building it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from snp.graph import CouplingGraph
from snp.units import UnitGroup

__all__ = ["CostModel"]


class CostModel:
    """Multiply-accumulates per sample and parameters as functions of the kept units per group."""

    def __init__(self, model: nn.Module, graph: CouplingGraph, groups: Sequence[UnitGroup]) -> None:
        self._shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        self._embeddings = graph.embeddings
        self._positions, self._fixed_macs = graph.positions, graph.fixed_macs
        self._num_units = [group.num_units for group in groups]
        numbers = {group.name: number for number, group in enumerate(groups)}
        self._products = [
            (macs, [numbers[name] for name in names if name in numbers]) for macs, names in graph.products
        ]
        # tensor -> dim -> who owns its indices
        self._owned: dict[str, dict[int, list[_Share]]] = defaultdict(lambda: defaultdict(list))
        blocks = [number for number, group in enumerate(groups) if group.kind == "heads"]
        for number in [*blocks, *(number for number in range(len(groups)) if number not in blocks)]:
            for member in groups[number].members:
                owners = self._owned[member.tensor][member.dim]
                inside = next((s for s in owners if s.is_block and bool(torch.isin(member.index, s.index).all())), None)
                share = _Share(number, member.index, number in blocks, member.num_blocks)
                (owners if inside is None else inside.parts).append(share)

    def _num_removed(self, owners: Sequence[_Share], kept: Sequence[int]) -> int:
        """Indices of one dimension that go; a head takes along what is left of its dimensions."""
        total = 0
        for share in owners:
            num_units, size = self._num_units[share.group], share.index.numel() // share.num_blocks
            left = size - self._num_removed(share.parts, kept)
            total += size - left * kept[share.group] // num_units
        return total

    def _num_elements(self, name: str, kept: Sequence[int]) -> int:
        shape = list(self._shapes[name])
        for dim, owners in self._owned.get(name, {}).items():
            shape[dim] -= self._num_removed(owners, kept)
        return math.prod(shape)

    def macs(self, kept: Sequence[int]) -> int:
        """Multiply-accumulates per sample with that many units kept in each group."""
        weights = (name for name in self._positions if name in self._shapes)
        total = self._fixed_macs + sum(self._positions[name] * self._num_elements(name, kept) for name in weights)
        for macs, numbers in self._products:
            for number in numbers:
                macs = macs * kept[number] // self._num_units[number]
            total += macs
        return total

    def params(self, kept: Sequence[int]) -> int:
        """Parameters with that many units kept in each group."""
        return sum(self._num_elements(name, kept) for name in self._shapes)

    def params_outside_embeddings(self, kept: Sequence[int]) -> int:
        """The same without tables that are looked up and heads tied to them: the layers of a language model."""
        return sum(self._num_elements(name, kept) for name in self._shapes if name not in self._embeddings)

    def of_target(self, target: str, count_embeddings: bool) -> Callable[[Sequence[int]], int]:
        """What a budget of that name (``"macs"`` or ``"params"``) counts."""
        if target == "params":
            return self.params if count_embeddings else self.params_outside_embeddings
        return self.macs

    @property
    def dense(self) -> list[int]:
        """Kept units per group of the dense network."""
        return list(self._num_units)


@dataclass(frozen=True, eq=False)
class _Share:
    """Indices of one dimension that a group's units own, shape [U, m], spread over ``num_blocks`` kernel blocks.

    Of heads (``is_block``) the parts that other groups own of them.
    """

    group: int
    index: Tensor
    is_block: bool
    num_blocks: int
    parts: list[_Share] = field(default_factory=list)
