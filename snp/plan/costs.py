"""What will the network cost once units are cut?  Counts from shapes, and times from a table, without building it."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import nn

from snp.core.budget import Target
from snp.graph import CouplingGraph
from snp.graph.residual import ResidualBlock, is_inside
from snp.graph.units import UnitGroup
from snp.plan.latency_table import LatencyTable
from snp.plan.shares import Share

__all__ = ["CostModel"]

_Value = TypeVar("_Value")


class CostModel:
    """Multiply-accumulates per sample, parameters and latency as functions of the kept units per group.

    Attributes:
        table: measured layer times; None where no one asks for latency.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: CouplingGraph,
        groups: Sequence[UnitGroup],
        table: LatencyTable | None = None,
    ) -> None:
        self.table = table
        self._shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        self._kernels = self._shapes | {name: tuple(buffer.shape) for name, buffer in model.named_buffers()}
        self._embeddings = graph.embeddings
        self._einsums = {name: reading.input_dim for name, reading in graph.readings.items() if reading.is_einsum}
        self._positions, self._fixed_macs = graph.positions, graph.fixed_macs
        self._num_units = [group.num_units for group in groups]
        self._numbers = {group.name: number for number, group in enumerate(groups)}
        self._products = list(graph.products)
        self._whole: CostModel | None = None
        # tensor -> dim -> who owns its indices
        self._owned: Mapping[str, Mapping[int, list[Share]]] = defaultdict(lambda: defaultdict(list))
        blocks = [number for number, group in enumerate(groups) if group.kind == "heads"]
        for number in [*blocks, *(number for number in range(len(groups)) if number not in blocks)]:
            for member in groups[number].members:
                owners = self._owned[member.tensor][member.dim]
                inside = next((s for s in owners if s.is_block and bool(torch.isin(member.index, s.index).all())), None)
                share = Share(number, member.index, number in blocks, member.num_blocks)
                (owners if inside is None else inside.parts).append(share)

    def _num_removed(self, owners: Sequence[Share], kept: Sequence[int]) -> int:
        """Indices of one dimension that go; a head takes along what is left of its dimensions."""
        total = 0
        for share in owners:
            num_units, size = self._num_units[share.group], share.index.numel() // share.num_blocks
            left = size - self._num_removed(share.parts, kept)
            total += size - left * kept[share.group] // num_units
        return total

    def _shape(self, name: str, kept: Sequence[int]) -> list[int]:
        shape = list(self._kernels[name])
        for dim, owners in self._owned.get(name, {}).items():
            shape[dim] -= self._num_removed(owners, kept)
        return shape

    def _num_elements(self, name: str, kept: Sequence[int]) -> int:
        return math.prod(self._shape(name, kept))

    def _num_products(self, name: str, kept: Sequence[int]) -> int:
        """Elements of a weight, each of which is multiplied and added."""
        shape = self._shape(name, kept)
        return 0 if name in self._einsums and shape[self._einsums[name]] == 1 else math.prod(shape)

    def macs(self, kept: Sequence[int]) -> int:
        """Multiply-accumulates per sample with that many units kept in each group."""
        weights = (name for name in self._positions if name in self._kernels)
        total = self._fixed_macs + round(sum(self._positions[n] * self._num_products(n, kept) for n in weights))
        for macs, names in self._products:
            for number in [self._numbers[name] for name in names if name in self._numbers]:
                macs = macs * kept[number] // self._num_units[number]
            total += macs
        return total

    def params(self, kept: Sequence[int]) -> int:
        """Parameters with that many units kept in each group."""
        return sum(self._num_elements(name, kept) for name in self._shapes)

    def layers(self, kept: Sequence[int]) -> dict[str, tuple[tuple[int, ...], int]]:
        """Weights of layers -> their shape and multiply-accumulates per sample with that many units kept per group."""
        names = (name for name in self._positions if name in self._shapes)
        shapes = {name: tuple(self._shape(name, kept)) for name in names}
        return {name: (shape, round(self._positions[name] * math.prod(shape))) for name, shape in shapes.items()}

    def params_outside_embeddings(self, kept: Sequence[int]) -> int:
        """The same without tables that are looked up and heads tied to them: the layers of a language model."""
        return sum(self._num_elements(name, kept) for name in self._shapes if name not in self._embeddings)

    @property
    def resized_weights(self) -> dict[str, tuple[int, ...]]:
        """Weights of layers whose sizes a cut changes -> which of their first two dimensions it changes."""
        names = (name for name in self._positions if name in self._shapes and name in self._owned)
        return {name: tuple(dim for dim in (0, 1) if dim in self._owned[name]) for name in names}

    def sizes(self, kept: Sequence[int], names: Iterable[str]) -> dict[str, tuple[int, int]]:
        """First two sizes of weights with that many units kept in each group."""
        shapes = {name: self._shape(name, kept) for name in names}
        return {name: (shape[0], shape[1]) for name, shape in shapes.items()}

    def activations(self, kept: Sequence[int]) -> float:
        """Outputs of all layers per sample."""
        weights = (name for name in self._positions if name in self._kernels)
        return sum(self._positions[name] * self._shape(name, kept)[0] for name in weights)

    def latency(self, kept: Sequence[int]) -> float:
        """Milliseconds of a pass by the table of layer times."""
        table = self._asked_table()
        return table.total_ms(self.sizes(kept, table.layers), self._activation_share(kept))

    def corrected(self, kept: Sequence[int], measured: float) -> CostModel:
        """The same counts with a table that says of the network with these units what the clock said of it.

        Args:
            kept: units per group, not all of them.
            measured: share of the dense network's time, above 0.
        """
        other = copy.copy(self)
        other.table = self._asked_table().corrected(self.parts_share(kept), measured)
        return other

    def corrected_as(self, other: CostModel) -> CostModel:
        """The same counts with what the clock said of another selection of blocks, by whose parts it is corrected."""
        found = copy.copy(self)
        found.table = dataclasses.replace(self._asked_table(), corrections=other._asked_table().corrections)
        return found

    def parts_share(self, kept: Sequence[int]) -> float:
        """What the parts of the table say of a pass, as a share of the dense network's, before it is corrected."""
        table = self._asked_table()
        return table.share(self.sizes(kept, table.layers), self._activation_share(kept))

    def _asked_table(self) -> LatencyTable:
        assert self.table is not None, "whoever asks for latency gives the table"
        return self.table

    def _activation_share(self, kept: Sequence[int]) -> float:
        return self.activations(kept) / self.whole.activations(self.whole.dense)

    def of_target(self, target: Target) -> Callable[[Sequence[int]], float]:
        """What a budget of that kind counts."""
        if target.kind == "latency":
            return self.latency
        if target.kind == "params":
            return self.params if target.counts_embeddings else self.params_outside_embeddings
        return self.macs

    def share_of(self, target: Target) -> Callable[[Sequence[int]], float]:
        """What kept units leave of the dense network's cost, as a budget of that kind counts it."""
        cost, dense = self.of_target(target), self.whole.of_target(target)(self.whole.dense)
        return lambda kept: cost(kept) / dense

    @property
    def whole(self) -> CostModel:
        """Of the network with all of its blocks."""
        return self._whole or self

    def without(self, blocks: Collection[ResidualBlock]) -> CostModel:
        """Of the network without blocks; groups inside them are none any more, and shares are still of the whole."""

        def left(values: Mapping[str, _Value]) -> dict[str, _Value]:
            return {name: value for name, value in values.items() if not is_inside(name, blocks)}

        other, groups = copy.copy(self), left(self._numbers)
        places = {old: new for new, old in enumerate(groups.values())}
        other._whole, other._numbers = self.whole, {name: places[old] for name, old in groups.items()}
        other._num_units = [self._num_units[old] for old in places]
        other._shapes, other._kernels = left(self._shapes), left(self._kernels)
        other._positions = left(self._positions)
        other._fixed_macs -= sum(block.fixed_macs for block in blocks)
        other.table = self.table and self.table.of_rest(left(self.table.layers), left(self.table.blocks))
        other._products = [(n, names) for n, names in self._products if len(left(dict.fromkeys(names))) == len(names)]
        other._owned = {
            name: {dim: [share.renumbered(places) for share in owners] for dim, owners in dims.items()}
            for name, dims in left(self._owned).items()
        }
        return other

    @property
    def dense(self) -> list[int]:
        """Kept units per group of the dense network."""
        return list(self._num_units)
