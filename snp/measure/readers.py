"""What is measured at each layer that reads prunable units?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from snp.graph.analysis import CouplingGraph
from snp.graph.units import Slice, UnitGroup, module_of
from snp.measure.patches import LARGEST_GRAM, Patch, patch_of

__all__ = ["Block", "Reader", "head_readers", "other_readers", "readers_of"]


@dataclass(frozen=True, eq=False)
class Reader:
    """A convolution or linear layer whose inputs are measured.

    Attributes:
        weight: state-dict name of its weight, shape [O, C, ...].
        module: name of the module that owns the weight; a hook there sees the inputs.
        channel_dim: dimension of inputs and outputs along which channels lie.
        num_columns: size of the Gram matrix.
        shared: input columns that count as positions of one Gram column (49 for a flattened 7 x 7 map of channels
            where the full Gram would be too large, else 1).
        patch: for a patch Gram matrix, whose columns are channel times kernel element; None for channels only.
        num_blocks: of a grouped convolution's weight, whose rows see a block of the columns each
            (:mod:`snp.graph.grouped_kernels`).
    """

    weight: str
    module: str
    channel_dim: int
    num_columns: int
    shared: int = 1
    patch: Patch | None = None
    num_blocks: int = 1

    def samples(self, inputs: Tensor) -> Tensor:
        """The layer's inputs as a matrix of samples, shape [N, num_columns]."""
        if self.patch is not None:
            return self.patch.patches(inputs)
        rows = inputs.movedim(self.channel_dim, -1).reshape(-1, self.num_columns * self.shared)
        if self.shared == 1:
            return rows
        return rows.reshape(-1, self.num_columns, self.shared).transpose(1, 2).reshape(-1, self.num_columns)

    def blocks(self, kept: Tensor) -> list[Block]:
        """The parts that are fitted alone, each with its share of the kept columns; one for a plain layer."""
        size = self.num_columns // self.num_blocks
        alone = replace(self, num_columns=size, num_blocks=1)
        starts = range(0, self.num_columns, size)
        return [
            Block(slice(start, start + size), kept[(kept >= start) & (kept < start + size)] - start, alone)
            for start in starts
        ]

    def behind_padding(self) -> Reader:
        """The same reader of what its convolution gets, where the layer pads its input by an operator of its own."""
        return self if self.patch is None else replace(self, patch=self.patch.behind_padding())

    @property
    def sampling(self) -> tuple[object, ...]:
        """Readers of one tensor with equal values here see the same samples."""
        geometry = None if self.patch is None else self.patch.geometry
        return self.channel_dim, self.shared, self.num_blocks, geometry

    @property
    def fits_outputs(self) -> bool:
        """Is an output the product of one sample and the weight, so that outputs can be fitted directly?"""
        return self.patch is not None or (self.channel_dim == -1 and self.shared == 1)

    def outputs(self, values: Tensor) -> Tensor:
        """The layer's outputs at the positions of :meth:`samples`, shape [N, O]; only where :attr:`fits_outputs`."""
        assert self.fits_outputs
        if self.patch is not None:
            return self.patch.rows(values.flatten(2))
        return values.reshape(-1, values.shape[-1])

    def columns(self, member: Slice) -> Tensor:
        """Gram columns of a group's units, shape [U, b]."""
        if self.shared > 1:
            return member.index[:, :1] // self.shared
        if self.patch is None or self.patch.size == 1:
            return member.index
        return (member.index[:, :, None] * self.patch.size + torch.arange(self.patch.size)).flatten(1)


@dataclass(frozen=True, eq=False)
class Block:
    """A block of a grouped convolution: as many of the weight's rows, which see these columns only.

    Attributes:
        columns: of the whole reader's Gram matrix.
        kept: columns that stay, counted inside the block, ascending.
        reader: reads the block's channels alone.
    """

    columns: slice
    kept: Tensor
    reader: Reader


def readers_of(
    model: nn.Module,
    graph: CouplingGraph,
    groups: Iterable[UnitGroup],
    conv_gram: str = "channel",
    largest_patch: int = LARGEST_GRAM,
    by_block: bool = False,
) -> dict[str, Reader]:
    """Readers of all consumers of the groups, by weight name, in a fixed order.

    Args:
        model: owns the weights.
        graph: knows how many positions each weight is read at.
        groups: the groups that take part.
        conv_gram: ``"patch"`` measures what convolutions' kernels see, ``"channel"`` channels at all positions.
        largest_patch: columns of a patch Gram beyond which a convolution is measured by channel.
        by_block: only the columns of one block of a grouped convolution count there: blocks are fitted one by one.
    """
    readers: dict[str, Reader] = {}
    for group in groups:
        for member in group.consumers:
            if member.tensor not in readers:
                module = model.get_submodule(module_of(member.tensor))
                num_positions = graph.positions[member.tensor]
                largest = largest_patch if by_block else largest_patch // member.num_blocks
                patch = patch_of(module, num_positions, largest) if conv_gram == "patch" else None
                readers[member.tensor] = _reader(member, module, patch)
    return readers


def head_readers(model: nn.Module, graph: CouplingGraph, groups: Iterable[UnitGroup]) -> dict[str, Reader]:
    """Readers of the projections that make queries and keys of which some dimensions may be cut."""
    multiplied = [group for group in groups if group.is_multiplied]
    found: dict[str, Reader] = {}
    for layer in graph.attention:
        if any(layer.query.is_in(group.producers) for group in multiplied):
            for name in (layer.query.tensor, layer.key.tensor):
                weight = model.get_parameter(name)
                found[name] = Reader(name, module_of(name), -1 if weight.ndim == 2 else 1, weight.shape[1])
    return found


def other_readers(
    model: nn.Module, graph: CouplingGraph, readers: Mapping[str, Reader], conv_gram: str
) -> dict[str, Reader]:
    """Readers of all further convolutions and linear layers that are fitted by their outputs."""
    found: dict[str, Reader] = {}
    for name, num_positions in graph.positions.items():
        module: Any = model.get_submodule(module_of(name))
        if name in readers or not name.endswith(".weight") or getattr(module, "groups", 1) > 1:
            continue
        if isinstance(module, nn.Linear) and module.in_features <= LARGEST_GRAM:
            found[name] = Reader(name, module_of(name), -1, module.in_features)
        elif conv_gram == "patch" and (patch := patch_of(module, num_positions)) is not None:
            found[name] = Reader(name, module_of(name), 1, module.weight.shape[1] * patch.size, patch=patch)
    return found


def _reader(member: Slice, module: nn.Module, patch: Patch | None) -> Reader:
    weight = module.weight
    assert isinstance(weight, Tensor)
    num_columns, blocks = weight.shape[1] * member.num_blocks, member.num_blocks
    if patch is not None:
        size = num_columns * patch.size
        return Reader(member.tensor, module_of(member.tensor), 1, size, patch=patch, num_blocks=blocks)
    width = member.width
    covers = member.index.numel() == num_columns and torch.equal(member.index.reshape(-1), torch.arange(num_columns))
    shared = width if num_columns > LARGEST_GRAM and width > 1 and covers and blocks == 1 else 1
    channel_dim = -1 if weight.ndim == 2 else 1
    return Reader(
        member.tensor, module_of(member.tensor), channel_dim, num_columns // shared, shared, num_blocks=blocks
    )
