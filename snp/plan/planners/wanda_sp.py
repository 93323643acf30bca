"""What does pruning by weights times activations give?  The peer Wanda-sp: the structured form of Wanda.

Wanda (arXiv 2306.11695) scores a weight by |W_oj| ||X_j||; its structured form, as FLAP (arXiv 2312.11983) compares
with it, sums that over everything that reads a unit. The same share stays in every group; nothing takes over what goes
(``prune.reconstruct=false``), though every fit of the library can follow it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from snp.core.cuts import Curve, uniform
from snp.core.orderings import descending, interleaved
from snp.graph.units import UnitGroup
from snp.plan.level import kept_at_level, level_for
from snp.plan.problem import Choice, Problem, Selection
from snp.plan.statistics import flat_weight
from snp.settings import PruneSettings

__all__ = ["choose", "scores"]


def scores(problem: Problem, group: UnitGroup) -> Tensor:
    """Sum of |W_oj| times the root mean square of column j over a unit's columns and readers, shape [U], float64."""
    total = torch.zeros(group.num_units, dtype=torch.float64)
    for member in group.consumers:
        reader, moments = problem.readers[member.tensor], problem.moments[member.tensor]
        size = flat_weight(problem, member).abs().sum(dim=0)
        energy = (moments.second.diagonal().clamp_min(0) / max(moments.count, 1)).sqrt()
        total += (size * energy)[reader.columns(member)].sum(dim=1).cpu()
    return total


def choose(problem: Problem, settings: PruneSettings) -> Selection:
    """Units by falling score, the same share in every group."""
    orders = [interleaved(descending(scores(problem, group)), group.num_partitions) for group in problem.groups]

    def num_kept(group: int, level: float) -> int:
        return uniform.num_kept(Curve(torch.ones(len(orders[group]))), level)

    level = level_for(problem, settings, num_kept)
    kept = kept_at_level(problem, settings, num_kept, level)
    return Selection(tuple(Choice(order, count) for order, count in zip(orders, kept, strict=True)), level, num_kept)
