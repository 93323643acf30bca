"""How is a trial written down, so that another process that has the same problem can make it?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from snp.graph.residual import ResidualBlock
from snp.graph.units import UnitGroup
from snp.plan.group_plan import GroupPlan
from snp.plan.problem import Choice, Problem
from snp.plan.workers import Piece

__all__ = ["allocation_of", "block_of", "cut_of", "judged", "tried", "tried_without"]


def cut_of(group: UnitGroup, kept: Tensor) -> Piece:
    """A trial cut: the units [K] that stay of a group."""
    return {"group": group.name, "kept": kept.tolist()}


def tried(problem: Problem, piece: Piece) -> float:
    """Distance of a trial cut."""
    assert problem.trial is not None, "groups are cut on trial"
    (group,) = (group for group in problem.groups if group.name == piece["group"])
    return problem.trial.distance(group, _units(piece["kept"]))


def block_of(block: ResidualBlock) -> Piece:
    """A block that goes on trial."""
    return {"block": block.name}


def tried_without(problem: Problem, piece: Piece) -> float:
    """Distance without a block."""
    assert problem.trial is not None, "the settings ask for trials wherever they ask for blocks"
    (block,) = (block for block in problem.blocks if block.name == piece["block"])
    return problem.trial.distance_without(block)


def allocation_of(problem: Problem, choices: Sequence[Choice]) -> Piece:
    """A whole plan: the units that stay of every group, and the blocks that go."""
    pairs = zip(problem.groups, choices, strict=True)
    kept = {group.name: choice.kept.tolist() for group, choice in pairs}
    return {"kept": kept, "removed": [block.name for block in problem.removed]}


def judged(problem: Problem, piece: Piece) -> list[float]:
    """Distances of a whole plan, of every part of the samples."""
    assert problem.judge is not None, "whole allocations are judged"
    groups = {group.name: group for group in problem.groups}
    blocks = {block.name: block for block in (*problem.blocks, *problem.removed)}
    decisions = [GroupPlan(groups[name], _units(kept)) for name, kept in piece["kept"].items()]
    found: list[float] = problem.judge.distances(decisions, [blocks[name] for name in piece["removed"]]).tolist()
    return found


def _units(kept: Sequence[int]) -> Tensor:
    return torch.tensor(kept, dtype=torch.long)
