"""What will the network cost once units are cut?  Exact counts from shapes, without building it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from torch import nn

from snp.graph import CouplingGraph
from snp.units import UnitGroup

__all__ = ["CostModel"]


class CostModel:
    """Multiply-accumulates per sample and parameters as functions of the kept units per group."""

    def __init__(self, model: nn.Module, graph: CouplingGraph, groups: Sequence[UnitGroup]) -> None:
        self._shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        self._positions, self._fixed_macs = graph.positions, graph.fixed_macs
        self._num_units = [group.num_units for group in groups]
        # tensor -> dim -> [(group, indices per unit)]
        self._owned: dict[str, dict[int, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
        for number, group in enumerate(groups):
            for member in group.members:
                self._owned[member.tensor][member.dim].append((number, member.width))

    def _num_elements(self, name: str, kept: Sequence[int]) -> int:
        shape = list(self._shapes[name])
        for dim, owners in self._owned.get(name, {}).items():
            shape[dim] -= sum((self._num_units[group] - kept[group]) * width for group, width in owners)
        total = 1
        for size in shape:
            total *= size
        return total

    def macs(self, kept: Sequence[int]) -> int:
        """Multiply-accumulates per sample with that many units kept in each group."""
        weights = (name for name in self._positions if name in self._shapes)
        return self._fixed_macs + sum(self._positions[name] * self._num_elements(name, kept) for name in weights)

    def params(self, kept: Sequence[int]) -> int:
        """Parameters with that many units kept in each group."""
        return sum(self._num_elements(name, kept) for name in self._shapes)

    @property
    def dense(self) -> list[int]:
        """Kept units per group of the dense network."""
        return list(self._num_units)
