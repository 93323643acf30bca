"""What is measured at each layer that reads prunable units?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from snp.graph.analysis import CouplingGraph
from snp.graph.plain_experts import experts_around
from snp.graph.units import Reading, Slice, UnitGroup, module_of
from snp.measure.patches import LARGEST_GRAM, Patch, num_sampled, patch_of
from snp.measure.reader import Block, Reader
from snp.measure.reading_code import RECURRENT, is_matrix_of_tokens, is_stock
from snp.settings import FitSettings, PruneSettings

# Outputs per input beyond which a layer is fitted in the span of what it can put out.
_WIDE = 8

__all__ = [
    "Block",
    "Reader",
    "limited",
    "other_readers",
    "reader_of",
    "readers_of",
    "readers_to_fit",
    "readers_to_measure",
]


def readers_to_measure(
    model: nn.Module, graph: CouplingGraph, groups: Iterable[UnitGroup], settings: PruneSettings
) -> dict[str, Reader]:
    """What moments are made of: inputs of all consumers of the groups, and of what makes queries and keys.

    Args:
        model: owns the weights.
        graph: knows how each weight is read.
        groups: the groups that take part.
        settings: of the prune.
    """
    readers = readers_of(model, graph, groups, settings.moment_gram, settings.largest_patch)
    return limited(readers | _head_readers(model, graph, groups), settings.largest_token)


def readers_to_fit(
    model: nn.Module, graph: CouplingGraph, groups: Iterable[UnitGroup], settings: FitSettings
) -> dict[str, Reader]:
    """What is fitted in sequence: all consumers of the groups, and on request whatever else can be.

    Args:
        model: owns the weights.
        graph: knows how each weight is read.
        groups: the groups that take part.
        settings: of the fit.
    """
    readers = readers_of(model, graph, groups, settings.conv_gram, by_block=True)
    if settings.refit_all:
        readers |= other_readers(model, graph, readers, settings.conv_gram)
    return limited(readers, settings.largest_token)


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
                largest = largest_patch if by_block else largest_patch // member.num_blocks
                reading, count = graph.readings[member.tensor], graph.positions[member.tensor]
                patch = _patch_at(module, count, reading, largest) if conv_gram == "patch" else None
                reader = replace(reader_of(model, member, reading, patch), takes_offset=reading.takes_offset)
                readers[member.tensor] = reader if by_block else _sampled(reader, model.get_parameter(member.tensor))
    return readers


def limited(readers: Mapping[str, Reader], largest_token: float | None) -> dict[str, Reader]:
    """The same readers, for which no token counts more than so many usual ones (:mod:`snp.core.outliers`)."""
    return {name: replace(reader, largest_token=largest_token) for name, reader in readers.items()}


def _head_readers(model: nn.Module, graph: CouplingGraph, groups: Iterable[UnitGroup]) -> dict[str, Reader]:
    """Readers of the projections that make queries and keys of which some dimensions may be cut."""
    multiplied = [group for group in groups if group.is_multiplied]
    found: dict[str, Reader] = {}
    for layer in graph.attention:
        if any(layer.query.is_in(group.producers) for group in multiplied):
            for rows in (layer.query, layer.key):
                reading = graph.readings[rows.tensor]
                width = model.get_parameter(rows.tensor).shape[reading.input_dim]
                found[rows.tensor] = _plain_reader(model, rows.tensor, reading, width)
    return found


def other_readers(
    model: nn.Module, graph: CouplingGraph, readers: Mapping[str, Reader], conv_gram: str
) -> dict[str, Reader]:
    """Readers of all further convolutions and linear layers that are fitted by their outputs."""
    found: dict[str, Reader] = {}
    for name, num_positions in graph.positions.items():
        module: Any = model.get_submodule(module_of(name))
        reading = graph.readings[name]
        if name in readers or getattr(module, "groups", 1) > 1:
            continue
        if not is_stock(model, name, reading):
            if is_matrix_of_tokens(model, name, reading):
                found[name] = _plain_reader(model, name, reading, model.get_parameter(name).shape[reading.input_dim])
            continue
        if isinstance(module, nn.Linear) and module.in_features <= LARGEST_GRAM:
            found[name] = _plain_reader(model, name, reading, module.in_features)
        elif conv_gram == "patch" and (patch := _patch_at(module, num_positions, reading)) is not None:
            size = module.in_channels * patch.size
            found[name] = Reader(name, reading.module, 1, size, patch=patch, input_dim=reading.input_dim)
    return found


def _patch_at(module: nn.Module, num_positions: float, reading: Reading, largest: int = LARGEST_GRAM) -> Patch | None:
    return patch_of(module, int(num_positions), largest, reading.output_padding)


def reader_of(model: nn.Module, member: Slice, reading: Reading, patch: Patch | None) -> Reader:
    """The reader of one consumer.

    Args:
        model: owns the weight.
        member: what a group's units own of it.
        reading: how the weight is read.
        patch: what its kernels see; None measures channels.
    """
    weight = model.get_parameter(member.tensor)
    num_columns, blocks = weight.shape[reading.input_dim] * member.num_blocks, member.num_blocks
    if reading.input_dim == 0 and weight.ndim > 2:
        # Of a transposed convolution the outputs fall into columns of blocks of rows.
        blocks = int(getattr(model.get_submodule(module_of(member.tensor)), "groups", 1))
    if patch is not None:
        size = num_columns * patch.size
        return Reader(
            member.tensor, reading.module, 1, size, patch=patch, num_blocks=blocks, input_dim=reading.input_dim
        )
    width = member.width
    covers = member.index.numel() == num_columns and torch.equal(member.index.reshape(-1), torch.arange(num_columns))
    shared = width if num_columns > LARGEST_GRAM and width > 1 and covers and blocks == 1 else 1
    plain = _plain_reader(model, member.tensor, reading, num_columns // shared)
    return replace(plain, shared=shared, num_blocks=blocks)


def _sampled(reader: Reader, weight: Tensor) -> Reader:
    """Moments of channels are made of some positions of large maps; fits look at all."""
    if reader.patch is not None or reader.shared > 1 or weight.ndim < 3:
        return reader
    return replace(reader, most_positions=num_sampled(reader.num_columns // reader.num_blocks))


def _plain_reader(model: nn.Module, name: str, reading: Reading, num_columns: int) -> Reader:
    return Reader(
        name,
        reading.module,
        reading.channel_dim,
        num_columns,
        input_dim=reading.input_dim,
        output_channel_dim=reading.output_channel_dim,
        by_operator=not is_stock(model, name, reading),
        is_product=model.get_parameter(name).ndim == 2,
        is_recurrent=isinstance(model.get_submodule(reading.module), RECURRENT),
        is_wide=_is_wide(model, name, reading),
        is_routed=experts_around(model, reading.module) is not None,
    )


def _is_wide(model: nn.Module, name: str, reading: Reading) -> bool:
    weight, module = model.get_parameter(name), model.get_submodule(module_of(name))
    rows, columns = weight.shape[reading.output_dim], weight.shape[reading.input_dim]
    return isinstance(module, nn.Linear) and module.bias is None and rows >= _WIDE * columns
