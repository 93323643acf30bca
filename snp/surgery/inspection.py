"""What could be cut in a network, before anything is measured?  Every group, its readers, and why others stay."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from snp.core.files import write_whole
from snp.graph.batch_form import parsed
from snp.graph.edges import told_of_edges
from snp.graph.units import UnitGroup, module_of
from snp.graph.wrappers import evaluated_copy
from snp.plan.costs import CostModel
from snp.plan.table import markdown_table, unreached_sentence
from snp.settings import PruneSettings
from snp.surgery.subject import Survey, survey
from snp.surgery.unreached import beside_cuts

__all__ = ["GroupFacts", "Inspection", "inspect", "inspection_of"]


@dataclass(frozen=True)
class GroupFacts:
    """One group of units that stand or fall together.

    Attributes:
        name: of the group.
        num_units: U.
        num_partitions: parts that must keep the same number of units each.
        producers: modules that compute the units.
        readers: modules that read them.
        macs_share: share of the network's multiply-accumulates in layers that the units take part in, [0, 1]; a layer
            between two groups counts in both.
        frozen: why the group is left alone; None where it can be cut.
    """

    name: str
    num_units: int
    num_partitions: int
    producers: tuple[str, ...]
    readers: tuple[str, ...]
    macs_share: float
    frozen: str | None


@dataclass(frozen=True)
class Inspection:
    """What an analysis found; ``str()`` of it is a table.

    Attributes:
        model: class of the network.
        macs: multiply-accumulates per sample.
        params: parameters.
        prunable_macs: those in layers that units of some group that can be cut take part in.
        groups: in execution order, also those that are left alone.
        frozen: name -> reason for layers whose units are in no group.
        blocks: names of blocks that can go as a whole, where ``structures`` asks for them.
        unreached: layers that the batch does not reach, and that could meet units that can be cut.
    """

    model: str
    macs: int
    params: int
    prunable_macs: int
    groups: tuple[GroupFacts, ...]
    frozen: dict[str, str]
    blocks: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()

    def to_json(self) -> str:
        """All of it as readable JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def __str__(self) -> str:
        """A Markdown page that reads well on a terminal, too."""
        open_ones = [group for group in self.groups if group.frozen is None]
        units = sum(group.num_units for group in open_ones)
        share = self.prunable_macs / max(self.macs, 1)
        lines = [
            f"# What can be cut in {self.model}",
            "",
            f"{self.macs / 1e6:,.2f} M multiply-accumulates per sample, {self.params:,} parameters. {units} units in "
            f"{len(open_ones)} groups can be cut; {share:.1%} of the multiply-accumulates are in layers they touch.",
            "",
            *markdown_table(
                ("group", "units", "parts", "MACs", "readers", "left alone because"), map(_row, self.groups)
            ),
        ]
        if self.blocks:
            lines += ["", f"Blocks that can go as a whole: {', '.join(self.blocks)}."]
        if self.frozen:
            lines += ["", "Layers whose units are in no group:", ""]
            lines += markdown_table(("layer", "reason"), self.frozen.items())
        if self.unreached:
            lines += ["", unreached_sentence(self.unreached)]
        return "\n".join(lines) + "\n"

    def save(self, folder: Path) -> None:
        """Write ``groups.json`` and ``groups.md``."""
        write_whole(folder / "groups.json", self.to_json())
        write_whole(folder / "groups.md", str(self))


def inspect(model: nn.Module, batch: Any, settings: PruneSettings | None = None) -> Inspection:
    """List every group of a network; nothing is trained, measured or changed.

    Args:
        model: any module that ``torch.export`` accepts.
        batch: inputs as the model gets them: a tensor, an (inputs, labels) pair or a mapping of keyword arguments;
            samples lie along the first dimension of every tensor.
        settings: ``ignore``, ``streams`` and the like select groups.

    Raises:
        ValueError: the model cannot be exported, samples do not lie along the first dimension, or a pattern of
            ``ignore`` names nothing.
    """
    settings = settings or PruneSettings()
    dense = evaluated_copy(model)
    inputs = next(parsed(dense, [batch]))
    with told_of_edges(dense, inputs):
        return inspection_of(dense, survey(dense, inputs.example(), settings))


def inspection_of(model: nn.Module, found: Survey) -> Inspection:
    """The facts of a survey of a network."""
    costs = CostModel(found.model, found.graph, found.graph.groups)
    dense = costs.dense
    whole, open_names = costs.macs(dense), {group.name for group in found.groups}

    def without(names: set[str]) -> int:
        kept = [0 if group.name in names else count for group, count in zip(found.graph.groups, dense, strict=True)]
        return whole - costs.macs(kept)

    groups = tuple(
        _facts(group, without({group.name}) / max(whole, 1), found.frozen.get(group.name))
        for group in found.graph.groups
    )
    named = {group.name for group in found.graph.groups}
    frozen = {name: reason for name, reason in found.frozen.items() if name not in named}
    return Inspection(
        type(model).__name__,
        whole,
        costs.params(dense),
        without(open_names),
        groups,
        frozen,
        tuple(block.name for block in found.removable),
        beside_cuts(found.model, found.unreached, found.groups),
    )


def _facts(group: UnitGroup, share: float, frozen: str | None) -> GroupFacts:
    producers, readers = (
        tuple(dict.fromkeys(module_of(member.tensor) for member in members))
        for members in (group.producers, group.consumers)
    )
    return GroupFacts(group.name, group.num_units, group.num_partitions, producers, readers, share, frozen)


def _row(group: GroupFacts) -> tuple[str, ...]:
    readers = ", ".join(group.readers[:3]) + (f" and {len(group.readers) - 3} more" if len(group.readers) > 3 else "")
    counts = (str(group.num_units), str(group.num_partitions), f"{group.macs_share:.1%}")
    return (group.name, *counts, readers, group.frozen or "")
