"""What does pruning by the size of weights give?  The peer that looks at no data: L2 norm of each unit's rows."""

from __future__ import annotations

import torch
from torch import Tensor

from snp.graph.grouped_kernels import expanded
from snp.graph.units import UnitGroup
from snp.plan.allocation import equal_shares
from snp.plan.level import by_falling_score
from snp.plan.problem import Problem, Selection
from snp.settings import PruneSettings

__all__ = ["choose", "scores"]


def scores(problem: Problem, group: UnitGroup) -> Tensor:
    """Squared norm of the weights that produce each unit, shape [U], float64."""
    energy = torch.zeros(group.num_units, dtype=torch.float64)
    for member in group.producers:
        sizes = problem.weights[member.tensor].detach().abs().double()  # of complex numbers, too
        rows = expanded(sizes, member.num_blocks).movedim(member.dim, 0)
        per_index = rows.reshape(rows.shape[0], -1).square().sum(dim=1).cpu()
        energy += per_index[member.index].sum(dim=1)
    return energy


def choose(problem: Problem, settings: PruneSettings) -> Selection:
    """Units by falling norm of the weights that produce them, the same share in every group."""
    found = [scores(problem, group) for group in problem.groups]
    return by_falling_score(problem, found, equal_shares(problem.costs.dense))
