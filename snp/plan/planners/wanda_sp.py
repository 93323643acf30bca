"""What does pruning by weights times activations give?  The peer Wanda-sp: the structured form of Wanda.

Wanda (arXiv 2306.11695) scores a weight by |W_oj| ||X_j||; its structured form, as FLAP (arXiv 2312.11983) compares
with it, sums that over everything that reads a unit. The same share stays in every group; nothing takes over what goes
(``prune.reconstruct=false``), though every fit of the library can follow it.
"""

from __future__ import annotations

from torch import Tensor

from snp.core.gram import Moments
from snp.graph.units import UnitGroup
from snp.plan.allocation import equal_shares
from snp.plan.level import by_falling_score
from snp.plan.problem import Problem, Selection
from snp.plan.statistics import summed_scores
from snp.settings import PruneSettings

__all__ = ["choose", "scores"]


def scores(problem: Problem, group: UnitGroup) -> Tensor:
    """Sum of |W_oj| times the root mean square of column j over a unit's columns and readers, shape [U], float64."""
    return summed_scores(problem, group, _weighed)


def _weighed(weight: Tensor, moments: Moments) -> Tensor:
    energy = (moments.second.diagonal().clamp_min(0) / max(moments.count, 1)).sqrt()
    return weight.abs().sum(dim=0) * energy


def choose(problem: Problem, settings: PruneSettings) -> Selection:
    """Units by falling score, the same share in every group."""
    found = [scores(problem, group) for group in problem.groups]
    return by_falling_score(problem, found, equal_shares(problem.costs.dense))
