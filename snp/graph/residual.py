"""Which modules can be taken out of a network, and what stands in front of them and behind?

A residual block is a sum of its input and branches, or several such sums one after the other, each perhaps with a
rectifier behind it. What it adds is least where it adds nothing: without it the network runs as if all of its branches
were zero.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import fx

from snp.graph.exported import Exported
from snp.graph.passages import RECTIFIERS, kind_of, passage_of

__all__ = ["Gaps", "ResidualBlock", "gaps_of", "is_inside"]


@dataclass(frozen=True)
class ResidualBlock:
    """A module that can be taken out of a network.

    Attributes:
        name: of the module.
        writers: names of tensors; where they are zero, the module gives out its input, to the bit.
        num_inputs: arguments that it is called with.
        num_outputs: entries of the tuple that it gives out, all but the first None; None where it gives out a tensor.
        fixed_macs: multiply-accumulates per sample inside it of products without weights.
    """

    name: str
    writers: tuple[str, ...]
    num_inputs: int = 1
    num_outputs: int | None = None
    fixed_macs: int = 0

    def to_json(self) -> dict[str, Any]:
        """JSON values of it."""
        return asdict(self) | {"writers": list(self.writers)}

    @staticmethod
    def from_json(plain: Mapping[str, Any]) -> ResidualBlock:
        """Inverse of :meth:`to_json`."""
        return ResidualBlock(**{**plain, "writers": tuple(plain["writers"])})


def is_inside(name: str, blocks: Collection[ResidualBlock]) -> bool:
    """Does a tensor or module of that name lie in one of these blocks?"""
    return any(name == block.name or name.startswith(f"{block.name}.") for block in blocks)


@dataclass(frozen=True, eq=False)
class Gaps:
    """Where blocks were in a graph.

    Attributes:
        aims: what stands in front of them -> the node whose dense values it should have instead.
        nodes: all that the blocks compute.
        exits: what they give out.
    """

    aims: dict[fx.Node, fx.Node]
    nodes: frozenset[fx.Node]
    exits: frozenset[fx.Node]


def gaps_of(exported: Exported, blocks: Sequence[ResidualBlock]) -> Gaps:
    """What stands in front of removed blocks -> what it should be instead: what the dense network has behind them.

    Where a rectifier is the last thing that the block does, and stands in front of it, too, it is the same without
    rectifiers. What is read by others, too, keeps its values.

    Args:
        exported: the dense network.
        blocks: that are removed.
    """
    passages = {passage.entry: passage for passage in (passage_of(exported, block.name) for block in blocks)}
    aims = dict[fx.Node, fx.Node]()
    exits = {passage.exit for passage in passages.values()}
    for entry, passage in passages.items():
        if entry in exits or not passage.nodes.issuperset(entry.users):
            continue
        last = passage
        while (following := passages.get(last.exit)) is not None and following.nodes.issuperset(last.exit.users):
            last = following
        before, behind = _unrectified(entry, last.exit)
        aims[before] = behind
    inside = frozenset[fx.Node]().union(*(passage.nodes for passage in passages.values()))
    return Gaps(aims, inside, frozenset(exits))


def _unrectified(entry: fx.Node, behind: fx.Node) -> tuple[fx.Node, fx.Node]:
    """Both in front of their rectifiers, where both have one of a kind."""
    is_rectified = (
        kind_of(entry) in RECTIFIERS and kind_of(entry) == kind_of(behind) and entry.args[1:] == behind.args[1:]
    )
    first, last = entry.args[:1], behind.args[:1]
    if is_rectified and isinstance(first[0], fx.Node) and isinstance(last[0], fx.Node) and len(first[0].users) == 1:
        return first[0], last[0]
    return entry, behind
