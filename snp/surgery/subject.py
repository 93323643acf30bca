"""Which groups of a network take part in a prune, and what is to be measured?"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from snp.graph import CouplingGraph, analyse
from snp.graph.batches import Batch, device_of
from snp.graph.exports import Exports
from snp.graph.ignored import ignored_groups
from snp.graph.not_finite import refuse_not_finite
from snp.graph.plain_weights import plain_for
from snp.graph.residual import ResidualBlock
from snp.graph.units import UnitGroup
from snp.measure.blocks import blocks_of
from snp.measure.readers import Reader, readers_to_measure
from snp.measure.visiting import Visits
from snp.plan.costs import CostModel
from snp.plan.twins import twins_left
from snp.settings import PruneSettings
from snp.surgery.counts import refuse_uncounted
from snp.surgery.folded_norms import require_width, with_folded_norms
from snp.surgery.left_alone import unmeasured, why_left_alone
from snp.surgery.removal import removable_blocks, require_blocks
from snp.surgery.trial_cuts import confirm
from snp.surgery.unreached import unreached_layers

__all__ = ["Subject", "Survey", "subject_of", "survey"]


@dataclass(frozen=True, eq=False)
class Survey:
    """What may be cut in a network, before anything is measured.

    Attributes:
        model: the network with plain weights (:mod:`snp.graph.plain_weights`), which was analysed.
        graph: what the analysis found.
        groups: the groups that take part.
        frozen: name -> reason for everything that does not.
        removable: blocks that can go as a whole, where they are asked for.
        exports: programs of the model that are known.
        unreached: names of layers that the example does not reach (:mod:`snp.surgery.unreached`).
    """

    model: nn.Module
    graph: CouplingGraph
    groups: tuple[UnitGroup, ...]
    frozen: dict[str, str]
    removable: tuple[ResidualBlock, ...] = ()
    exports: Exports = field(default_factory=Exports)
    unreached: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Subject:
    """A network that was analysed and is ready to be calibrated.

    Attributes:
        model: the dense network in evaluation mode, with plain weights (:mod:`snp.graph.plain_weights`).
        graph: what the analysis found.
        groups: the groups that take part.
        frozen: name -> reason for everything that does not.
        readers: what is to be measured, by weight name.
        samples: a small batch, wherever it may be; see :attr:`example`.
        exports: programs of the model that are known; they hold for other values of its weights, too.
        blocks: names of its blocks, in order, where one after the other is worked on because the network is large;
            none where it is worked on as a whole.
        visited: the device that blocks visit one after the other while the network stays in main memory; None for none.
        removable: blocks that can go as a whole, where they are asked for.
        unreached: names of layers that the example does not reach (:mod:`snp.surgery.unreached`).
    """

    model: nn.Module
    graph: CouplingGraph
    groups: tuple[UnitGroup, ...]
    frozen: dict[str, str]
    readers: dict[str, Reader]
    samples: Batch
    exports: Exports = field(default_factory=Exports)
    blocks: tuple[str, ...] = ()
    visited: torch.device | None = None
    removable: tuple[ResidualBlock, ...] = ()
    unreached: tuple[str, ...] = ()

    @property
    def example(self) -> Batch:
        """The small batch on the model's device, wherever that is by now."""
        return self.samples.beside(self.model)

    @property
    def sensitive(self) -> dict[str, Reader]:
        """The readers whose errors planners ask for: not what reads a stream alone, a head of many outputs among it."""
        of_width, others = set[str](), set[str]()
        for group in self.groups:
            (of_width if group.kind == "width" else others).update(member.tensor for member in group.consumers)
        others |= {rows.tensor for layer in self.graph.attention for rows in (layer.query, layer.key)}
        return {name: reader for name, reader in self.readers.items() if name in others or name not in of_width}

    @property
    def costs(self) -> CostModel:
        """What the network costs with fewer units, but for its time."""
        return CostModel(self.model, self.graph, self.groups)

    @property
    def device(self) -> torch.device:
        """Where the model is run."""
        return self.visited or device_of(self.model)

    @property
    def visits(self) -> Visits:
        """Which of its blocks are moved where to be run."""
        return Visits(self.blocks, self.visited)

    def in_blocks(self, device: torch.device | None = None) -> Subject:
        """The same, worked on block by block.

        Args:
            device: that blocks visit to be worked on, if that is not where the network is and stays.

        Raises:
            ValueError: it has no list of blocks that holds all readers.
        """
        return replace(
            self, blocks=tuple(blocks_of(self.model, self.readers)), visited=None if device == self.device else device
        )

    def placed(self, device: torch.device | str) -> Subject:
        """The model on the device where it is run, in place; where its blocks visit it, the model stays."""
        return self if self.visited is not None else self.to(device)

    def to(self, device: torch.device | str) -> Subject:
        """Move the model, in place; the example follows."""
        self.model.to(device)
        return self


def survey(model: nn.Module, example: Any, settings: PruneSettings) -> Survey:
    """Analyse a network and select the groups that take part, be it none.

    Args:
        model: in evaluation mode; not changed.
        example: one or two samples, as the model gets them.
        settings: ``ignore``, ``streams`` and ``structures`` select groups.

    Raises:
        ValueError: the model cannot be exported, its outputs are not finite, or a pattern of ``ignore`` names nothing.
    """
    model = plain_for(model, settings.cut_structures)
    example = Batch.of(example).beside(model)
    graph = analyse(model, example, settings.cut_structures, equal_sizes=settings.attention == "equal")
    ignored, frozen = ignored_groups(model, graph.groups, settings.ignore), dict(graph.frozen)
    selected = []
    for group in graph.groups:
        reason = "named by prune.ignore" if group.name in ignored else why_left_alone(model, group, settings)
        if reason is None:
            selected.append(group)
        else:
            frozen[group.name] = reason
    if "width" in settings.cut_structures:
        require_width(model, selected, frozen)
        model = with_folded_norms(model, example, graph, selected)
    groups, refused = confirm(model, selected, example, graph.attention)
    hidden = unmeasured(model, graph, groups, example, settings)
    groups, refused = tuple(g for g in groups if g.name not in hidden), refused | hidden
    left = twins_left(graph.groups, {g.name for g in graph.groups} - {g.name for g in groups})
    kept = tuple(g for g in groups if g.name not in left)
    found = Survey(model, graph, kept, frozen | left | refused, unreached=unreached_layers(model, graph, example))
    if "blocks" not in settings.cut_structures:
        return found
    costs, exported = CostModel(model, graph, found.groups), found.exports.of(model, example)
    blocks, refused = removable_blocks(model, exported, costs, example, found.groups, settings.ignore)
    return replace(found, removable=blocks, frozen=found.frozen | refused)


def subject_of(model: nn.Module, example: Any, settings: PruneSettings) -> Subject:
    """Analyse a network, select the groups that take part, and say what is to be measured.

    Args:
        model: in evaluation mode; kept, not copied, unless kernels that it computes become weights.
        example: one or two samples, as the model gets them.
        settings: ``ignore``, ``streams`` and ``structures`` select groups.

    Raises:
        ValueError: nothing of what is asked for can be cut, values are not finite, or costs are not what they seem.
    """
    refuse_not_finite(model, example := Batch.of(example))
    model = (found := survey(model, example, settings)).model
    if not found.groups:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(found.frozen.items())[:5])
        raise ValueError(f"nothing in {type(model).__name__} can be cut: {reasons or 'no layer reads another'}")
    if "blocks" in settings.structures:  # by name; auto takes what there is
        require_blocks(model, found.removable, found.frozen)
    readers = readers_to_measure(model, found.graph, found.groups, settings)
    refuse_uncounted(model, CostModel(model, found.graph, found.groups), readers, example.beside(model))
    known = found.graph, found.groups, found.frozen, readers
    return Subject(model, *known, example, found.exports, removable=found.removable, unreached=found.unreached)
