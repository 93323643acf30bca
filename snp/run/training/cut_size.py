"""How large was a cut, beside the weights that it was made in?  The rate of a fine-tuning may go by it."""

from __future__ import annotations

import math

from torch import nn

from snp.graph.plain_weights import plain_for
from snp.plan.plan import PruningPlan
from snp.surgery.surgery import cut

__all__ = ["cut_size"]


def cut_size(dense: nn.Module, plan: PruningPlan) -> float:
    """Relative distance between the dense weights and those with the cut units at zero, in (0, 1].

    d = |W - W_p| / (|W| sqrt(s)), s the share of the parameters that went: 1 where they were as large as the others,
    less where smaller ones were taken. ALLR (Zimmer et al. 2023, arXiv 2111.00843) begins retraining with d times the
    rate that the dense training began with, or with the retraining's share of its length where that is larger; how long
    the dense network was trained is not known here.

    Args:
        dense: the network that the plan was made for.
        plan: what is cut.
    """
    before = plain_for(dense, plan.settings.get("structures", ()))
    after = cut(before, plan)
    (energy, count), (energy_left, count_left) = _energy(before), _energy(after)
    if count_left >= count or energy <= 0:
        return 1.0  # nothing went
    return min(1.0, math.sqrt(max(energy - energy_left, 0.0) / energy / (1 - count_left / count)))


def _energy(model: nn.Module) -> tuple[float, int]:
    """Sum of squares of all parameters, and how many there are."""
    parameters = [parameter.detach() for parameter in model.parameters() if parameter.is_floating_point()]
    return sum(float(p.double().square().sum()) for p in parameters), sum(p.numel() for p in parameters)
