"""What should stand in front of blocks that go: which weights give what the dense network has behind them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx

from snp.core.sums import ALONE
from snp.fit.behind_layer import Tail, tail_of
from snp.fit.layer import LayerFit
from snp.fit.reads import Read, reads_of
from snp.fit.rows import batch_size_for, equal_batches
from snp.fit.two_networks import TwoNetworks
from snp.fit.within_memory import networks_within
from snp.graph.batches import Batch
from snp.graph.residual import ResidualBlock, gaps_of
from snp.measure.readers import Reader
from snp.settings import FitSettings
from snp.surgery.subject import Subject

__all__ = ["foreseen", "weights_in_front"]


def foreseen(networks: TwoNetworks, tail: Tail | None) -> Tail | None:
    """A tail with the dense values of what it aims at; without an aim where it has these values already.

    Args:
        networks: what the tail's sum adds is computed, or can be.
        tail: of the layer that is open.
    """
    if tail is None or tail.end is None or tail.aim is None:
        return tail
    if tail.other is not None:
        networks.compute(tail.other)
    _compute_ahead(networks, [tail.end, tail.aim])
    pairs = zip(networks.dense[tail.end], networks.dense[tail.aim], strict=True)
    if all(torch.equal(own.clamp(tail.low, tail.high), aim.clamp(tail.low, tail.high)) for own, aim in pairs):
        return replace(tail, end=None, aim=None)
    return tail


def _compute_ahead(networks: TwoNetworks, wanted: Sequence[fx.Node]) -> None:
    """Compute the dense network's values of nodes before their turn; what is only needed on the way does not stay."""
    order, waiting = set[fx.Node](), [*wanted]
    while waiting:
        node = waiting.pop()
        if node not in networks.dense and node not in order and networks.name_of(node) is None:
            order.add(node)
            waiting += node.all_input_nodes
    uses = {node: sum(user in order for user in node.users) for node in order}
    for node in (each for each in networks.graph.nodes if each in order):
        if node.op != "call_function":
            networks.compute(node)
            continue
        networks.dense_values(node)
        for argument in node.all_input_nodes:
            uses[argument] = uses.get(argument, 0) - 1
            is_ours = argument in order and argument not in wanted and argument.op == "call_function"
            if uses[argument] == 0 and is_ours:
                del networks.dense[argument]


def weights_in_front(
    subject: Subject,
    batches: Sequence[Batch],
    readers: Mapping[str, Reader],
    settings: FitSettings,
    blocks: Sequence[ResidualBlock],
) -> dict[str, dict[str, Tensor]]:
    """For every block alone the weights of the layer in front of it that make up for it where it goes.

    One pass of the dense network serves them all.

    Args:
        subject: the dense network.
        batches: inputs on its device.
        readers: weight name -> how its inputs are read, of layers that can be fitted.
        settings: how.
        blocks: each of which may go.

    Returns:
        Name of the block -> name -> tensor; without blocks in front of which nothing can be fitted.
    """
    size = batch_size_for(sum(batch.size for batch in batches))
    fitter = _InFront(readers, settings)
    memory = int(settings.memory_gib * 2**30)
    networks = networks_within(memory, subject, equal_batches(batches, size), fitter, ALONE)
    networks.limit(memory)
    for block in blocks:
        aims = gaps_of(networks.exported, [block]).aims
        networks.aims |= aims
        fitter.blocks |= dict.fromkeys(aims.values(), block.name)
    networks.run()
    return fitter.found


class _InFront:
    """Fits what stands in front of blocks, and leaves the network as it was."""

    def __init__(self, readers: Mapping[str, Reader], settings: FitSettings) -> None:
        self._readers, self._settings = readers, settings
        self.blocks: dict[fx.Node, str] = {}  # what is aimed at -> name of the block
        self.found: dict[str, dict[str, Tensor]] = {}

    def fits_at(self, networks: TwoNetworks, node: fx.Node) -> bool:
        """Is there a layer that may stand in front of a block?"""
        return any(read.weight in self._readers for read in reads_of(networks, node))

    def visit(self, networks: TwoNetworks, node: fx.Node) -> None:
        """Fit the node's weight on the dense network's inputs, if a block is behind it."""
        for read in reads_of(networks, node):
            if read.weight in self._readers and networks.num_reads(read.weight) == 1:
                self._fit(networks, node, read)

    def _fit(self, networks: TwoNetworks, node: fx.Node, read: Read) -> None:
        reader, settings = self._readers[read.weight].behind_padding(), self._settings
        if not reader.fits_outputs:
            return
        tail = tail_of(networks, node, reader.output_dim, repair=settings.repair, rectify=settings.rectify)
        if tail is None or tail.aim is None:
            return
        block, tail = self.blocks[tail.aim], foreseen(networks, tail)
        if tail is not None and tail.aim is not None:
            LayerFit(networks, node, read, reader, torch.arange(reader.num_columns)).outputs(tail, settings)
            self.found[block] = networks.take_back()
