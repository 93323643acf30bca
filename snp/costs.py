"""What will the network cost once units are cut?  Exact counts from shapes, without building it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from torch import nn

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
        # tensor -> dim -> [(group, indices per unit, blocks that they spread over)]
        self._owned: dict[str, dict[int, list[tuple[int, int, int]]]] = defaultdict(lambda: defaultdict(list))
        for number, group in enumerate(groups):
            for member in group.members:
                self._owned[member.tensor][member.dim].append((number, member.width, member.num_blocks))

    def _num_elements(self, name: str, kept: Sequence[int]) -> int:
        shape = list(self._shapes[name])
        for dim, owners in self._owned.get(name, {}).items():
            shape[dim] -= sum((self._num_units[g] - kept[g]) * width // blocks for g, width, blocks in owners)
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
