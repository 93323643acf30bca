"""What does pruning by the variance of activations give?  The peer that folds means, not other units, into what stays.

Variance-based pruning (arXiv 2507.12988), as we read it: the units whose activations vary least go, the same threshold
in all layers, because a unit that hardly varies is all but its mean, which a bias can hold. This is the choice of
units; ``benchmarks/peers/mean_folding.py`` puts their means into biases, and every fit of the library can follow it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from snp.graph.units import UnitGroup
from snp.plan.allocation import PooledScores
from snp.plan.level import by_falling_score
from snp.plan.problem import Problem, Selection
from snp.settings import PruneSettings

__all__ = ["choose", "unit_variance"]


def unit_variance(problem: Problem, group: UnitGroup) -> Tensor:
    """Variance of each unit's activation, mean over its columns at all readers, shape [U], float64."""
    total = torch.zeros(group.num_units, dtype=torch.float64)
    for member in group.consumers:
        moments = problem.moments[member.tensor]
        variance = moments.centred().diagonal().clamp_min(0) / max(moments.count, 1)
        total += variance.cpu()[problem.readers[member.tensor].columns(member)].mean(dim=1)
    return total / max(len(group.consumers), 1)


def choose(problem: Problem, settings: PruneSettings) -> Selection:
    """Units by falling variance; the level is the share of all the network's units that stays, at least one a group."""
    found = tuple(unit_variance(problem, group) for group in problem.groups)
    return by_falling_score(problem, found, PooledScores(found))
