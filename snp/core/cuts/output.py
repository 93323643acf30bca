"""How many units stay when the last unit cut from every group does the same damage per cost?

Minimising the summed damage under a budget means that every group pays the same price per cost: it keeps the k that
minimises damage(k) + price * cost(k), which lies on the lower convex hull of its curve.
"""

import torch

from snp.core.cuts import Curve

__all__ = ["num_kept"]

# Below this level every group is at one unit.
_LOWEST = 1e-15


def num_kept(curve: Curve, level: float) -> int:
    """Units kept at the price 1 / level - 1 of the whole network's damage per the whole network's cost, in 1..U.

    Args:
        curve: with damage and cost.
        level: in (0, 1]; at 1 nothing that does any damage is cut.
    """
    assert curve.damage is not None, "the planner computes the damage for this cut"
    num_units = len(curve.kept_variance)
    counts = torch.arange(1, num_units + 1, dtype=torch.float64)
    price = 1 / max(level, _LOWEST) - 1
    total = curve.damage[1:].cpu() + price * curve.unit_cost * counts
    return int(total.argmin()) + 1
