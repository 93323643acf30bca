"""What does pruning by how much a unit's contribution fluctuates give?  The peer FLAP.

FLAP (arXiv 2312.11983): a unit's score is the variance of its activation times the squared norm of the weights that
read it; scores are standardised layer by layer, and one threshold cuts all layers. What a cut unit gave on average
goes into biases: that is ``benchmarks/peers/mean_folding.py``, and every fit of the library can follow it instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from snp.core.gram import Moments
from snp.graph.units import UnitGroup
from snp.plan.allocation import PooledScores
from snp.plan.level import by_falling_score
from snp.plan.problem import Problem, Selection
from snp.plan.statistics import summed_scores
from snp.settings import PruneSettings

__all__ = ["choose", "scores"]


def scores(problem: Problem, group: UnitGroup) -> Tensor:
    """Var(x_j) ||W_:j||^2 summed over a unit's columns and readers, shape [U], float64."""
    return summed_scores(problem, group, _fluctuation)


def _fluctuation(weight: Tensor, moments: Moments) -> Tensor:
    variance = moments.centred().diagonal().clamp_min(0) / max(moments.count, 1)
    return weight.square().sum(dim=0) * variance


def _standardised(values: Tensor) -> Tensor:
    spread = values.std(correction=0)
    return (values - values.mean()) / torch.where(spread > 0, spread, torch.ones_like(spread))


def choose(problem: Problem, settings: PruneSettings) -> Selection:
    """Units by falling score; the level is the share of all the network's units that stays, at least one a group."""
    found = tuple(_standardised(scores(problem, group)) for group in problem.groups)
    return by_falling_score(problem, found, PooledScores(found))
