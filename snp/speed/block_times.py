"""What goes of a pass's time with a whole block, beside the time of its layers?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from snp.graph.residual import ResidualBlock
from snp.plan.costs import CostModel
from snp.plan.latency_table import LatencyTable
from snp.surgery.passing import without_blocks
from snp.surgery.subject import Subject
from snp.surgery.surgery import with_weights

__all__ = ["BlocksAlike", "blocks_alike", "with_block_times"]


@dataclass(frozen=True)
class BlocksAlike:
    """Blocks of the same modules, which compute as much.

    Attributes:
        blocks: one or more.
    """

    blocks: tuple[ResidualBlock, ...]

    @property
    def name(self) -> str:
        """Of the network without them, among those that are timed."""
        return f"without those like {self.blocks[0].name}"

    @property
    def gone(self) -> tuple[ResidualBlock, ...]:
        """Those that are taken out to be timed: all but one, because no network is made for none."""
        return self.blocks[1:] or self.blocks

    def taken_out_of(self, model: nn.Module) -> nn.Module:
        """The network without them; it shares the model's tensors."""
        return without_blocks(with_weights(model, {}, share=True), self.gone)


def blocks_alike(subject: Subject) -> tuple[BlocksAlike, ...]:
    """The blocks that can go as a whole, sorted by what they are."""
    found: dict[tuple[str, int], list[ResidualBlock]] = {}
    for block in subject.removable:
        rest = subject.costs.without([block])
        key = repr(subject.model.get_submodule(block.name)), rest.macs(rest.dense)
        found.setdefault(key, []).append(block)
    return tuple(BlocksAlike(tuple(blocks)) for blocks in found.values())


def with_block_times(costs: CostModel, kinds: Sequence[BlocksAlike]) -> LatencyTable:
    """The table of layer times that knows what goes with each block.

    Args:
        costs: of the dense network, with a table of layer times, for which networks without each kind were timed.
        kinds: of blocks.

    The clock says more of a block than the parts of the table, which know its layers and outputs: norms, sums and
    launches go with it. Where they say more, layers keep what is theirs.
    """
    assert costs.table is not None, "layers are timed before blocks"
    table, measured, found = costs.table, costs.table.measured, dict[str, float]()
    for kind in kinds:
        saved = (measured["dense"] - measured[kind.name]) / len(kind.gone)
        rest = costs.without([kind.blocks[0]])
        by_parts = measured["dense"] * (costs.parts_share(costs.dense) - rest.parts_share(rest.dense))
        found |= {block.name: max(0.0, saved - by_parts) for block in kind.blocks}
    # Together they take no more than what is constant.
    factor = min(1.0, table.constant_ms / sum(found.values())) if sum(found.values()) else 1.0
    return replace(table, blocks={name: factor * ms for name, ms in found.items()})
