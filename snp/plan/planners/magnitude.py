"""What does pruning by the size of weights give?  The peer that looks at no data: L2 norm of each unit's rows."""

from __future__ import annotations

import torch

from snp.core.cuts import Curve, uniform
from snp.core.orderings import descending, interleaved
from snp.graph.grouped_kernels import expanded
from snp.plan.level import kept_at_level, level_for
from snp.plan.problem import Choice, Problem, Selection
from snp.settings import PruneSettings

__all__ = ["choose"]


def choose(problem: Problem, settings: PruneSettings) -> Selection:
    """Units by falling norm of the weights that produce them, the same share in every group."""
    orders = []
    for group in problem.groups:
        energy = torch.zeros(group.num_units, dtype=torch.float64)
        for member in group.producers:
            weight = expanded(problem.weights[member.tensor].detach().double(), member.num_blocks)
            rows = weight.movedim(member.dim, 0)
            per_index = rows.reshape(rows.shape[0], -1).square().sum(dim=1).cpu()
            energy += per_index[member.index].sum(dim=1)
        orders.append(interleaved(descending(energy), group.num_partitions))

    def num_kept(group: int, level: float) -> int:
        return uniform.num_kept(Curve(torch.ones(len(orders[group]))), level)

    level = level_for(problem, settings, num_kept)
    kept = kept_at_level(problem, settings, num_kept, level)
    return Selection(tuple(Choice(order, count) for order, count in zip(orders, kept, strict=True)), level, num_kept)
