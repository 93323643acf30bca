"""What may a planner look at, and what does it decide?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from snp.core.budget import Target
from snp.core.gram import Moments
from snp.graph.residual import ResidualBlock, is_inside
from snp.graph.units import UnitGroup
from snp.measure.objective import Objective
from snp.measure.readers import Reader
from snp.plan.allocation import Allocation
from snp.plan.costs import CostModel
from snp.plan.group_plan import GroupPlan
from snp.plan.progress import Progress
from snp.plan.workers import ONE_WORKER, Workers

__all__ = ["Choice", "Judge", "LogitStatistics", "Problem", "Selection", "Trial"]


_HALF = Target()
_MAIN_MEMORY = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class LogitStatistics:
    """What the dimensions of queries and keys of one attention layer hold.

    Attributes:
        energy: mean squared part of the attention logits that each unit makes, shape [U], float64.
        weight: how much the network's output moves with a squared error of a logit of the unit's head, shape [U].
    """

    energy: Tensor
    weight: Tensor


class Trial(Protocol):
    """Cuts one group at a time, to see what that really does; see :class:`snp.fit.trials.Trials`."""

    def distance(self, group: UnitGroup, kept: Tensor) -> float:
        """How far the network's prediction moves when only this group is cut, in nats per sample.

        Args:
            group: any that can be cut; others stay whole.
            kept: its units that stay, shape [K].
        """
        ...

    def distance_without(self, block: ResidualBlock) -> float:
        """The same when only this block goes, and what stands in front of it makes up for it.

        Args:
            block: any that can go.
        """
        ...


class Judge(Protocol):
    """Carries out whole plans on some samples, to see on others what they do; see :class:`snp.fit.judge.FitJudge`."""

    def distances(self, groups: Sequence[GroupPlan], removed: Sequence[ResidualBlock] = ()) -> Tensor:
        """How far the fitted network's predictions are from the dense one's, in nats per sample.

        Args:
            groups: what stays of every group.
            removed: blocks that go as a whole.

        Returns:
            Means over parts of the samples, the same parts for every plan, shape [P], float64.
        """
        ...


@dataclass(frozen=True, eq=False)
class Problem:
    """What a planner may look at.

    Attributes:
        groups: groups that may be cut.
        weights: state-dict name -> weight of every producer and consumer of the groups.
        readers: weight name -> what was measured there.
        moments: weight name -> moments of the reader's inputs.
        costs: the cost of any choice.
        sensitivity: weight name -> Fisher matrix of the reader's outputs [O, O]; empty where it was not measured.
        logits: group name -> what its units do to attention logits, for units of queries and keys.
        target: what is asked for, as the settings of :func:`snp.pruning.decide` say.
        trial: cuts single groups to see what that does; None where that cannot be tried.
        judge: carries out whole plans to see what that does; None where it cannot be tried.
        device: the network's. Moments and weights lie in main memory; where a group's are worked on,
            :func:`snp.plan.placing.place_of` says.
        objective: by which damages, trials and fits are judged at the outputs; None where nothing looks at these.
        progress: is told of the stages from here to the small network.
        workers: make trials that do not depend on each other (:mod:`snp.plan.pieces`).
        blocks: that may go as a whole.
        removed: blocks that are gone; their groups are none of ``groups``.
    """

    groups: tuple[UnitGroup, ...]
    weights: Mapping[str, Tensor]
    readers: Mapping[str, Reader]
    moments: Mapping[str, Moments]
    costs: CostModel
    sensitivity: Mapping[str, Tensor] = field(default_factory=dict)
    logits: Mapping[str, LogitStatistics] = field(default_factory=dict)
    target: Target = _HALF
    trial: Trial | None = None
    judge: Judge | None = None
    device: torch.device = _MAIN_MEMORY
    objective: Objective | None = None
    progress: Progress = field(default_factory=Progress)
    workers: Workers = ONE_WORKER
    blocks: tuple[ResidualBlock, ...] = ()
    removed: tuple[ResidualBlock, ...] = ()

    def without(self, blocks: Sequence[ResidualBlock]) -> Problem:
        """What is left to decide once it is settled which blocks go."""
        groups = tuple(group for group in self.groups if not is_inside(group.name, blocks))
        costs = self.costs.without(blocks) if blocks else self.costs
        return replace(self, groups=groups, costs=costs, blocks=(), removed=tuple(blocks))


@dataclass(frozen=True, eq=False)
class Choice:
    """The units of one group in order of keeping, and how many stay.

    Attributes:
        order: most important first, shape [U]; interleaved where the group has partitions
            (:func:`snp.core.orderings.interleaved`), so that every multiple of P keeps as many units of each.
        num_kept: in P..U, a multiple of the group's number of partitions P.
        kept_variance: cumulative share of variance after each unit of the order, shape [U]; None if not measured.
        damage: error at the network's output with the first k units kept, in nats per sample, shape [U + 1]; None if
            not measured.
        tried: number of kept units -> what a trial cut found instead, in nats per sample.
    """

    order: Tensor
    num_kept: int
    kept_variance: Tensor | None = None
    damage: Tensor | None = None
    tried: Mapping[int, float] = field(default_factory=dict)

    @property
    def kept(self) -> Tensor:
        """The units that stay, ascending, in main memory, shape [K]."""
        return self.order[: self.num_kept].cpu().sort().values


@dataclass(frozen=True, eq=False)
class Selection:
    """Choices for all groups and the level that gave them.

    Attributes:
        choices: one per group.
        level: of the cut.
        allocation: what any level keeps of a group, for a budget whose costs are known better once a choice has been
            measured; None where the planner has no level.
    """

    choices: tuple[Choice, ...]
    level: float
    allocation: Allocation | None = None

    @property
    def kept(self) -> list[int]:
        """How many units stay, per group."""
        return [choice.num_kept for choice in self.choices]

    def with_kept(self, kept: Sequence[int]) -> Selection:
        """The same orders with other numbers of units, one per group."""
        choices = (replace(choice, num_kept=count) for choice, count in zip(self.choices, kept, strict=True))
        return replace(self, choices=tuple(choices))

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by name: equal selections have equal tensors, and ``safetensors`` can store them."""
        found = {"level": torch.tensor(self.level, dtype=torch.float64)}
        for number, choice in enumerate(self.choices):
            parts = {name: getattr(choice, name) for name in ("order", "kept_variance", "damage")}
            parts["num_kept"] = torch.tensor(choice.num_kept)
            parts["tried"] = torch.tensor([*choice.tried.items()], dtype=torch.float64).reshape(-1, 2)
            found |= {f"choices/{number}/{name}": part for name, part in parts.items() if part is not None}
        allocated = {} if self.allocation is None else self.allocation.tensors()
        return found | {f"allocation/{name}": tensor for name, tensor in allocated.items()}
