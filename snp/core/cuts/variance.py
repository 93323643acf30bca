"""How many units hold a given share of the group's orthogonalised variance?  (arXiv 2405.17506, section 3.3)."""

import torch

from snp.core.cuts import Curve

__all__ = ["num_kept"]


def num_kept(curve: Curve, level: float) -> int:
    """Smallest k with sum_{i<=k} D_i >= level * sum D_i, in 1..U.

    Args:
        curve: units in the order of keeping.
        level: cumulative variance to keep, in (0, 1].
    """
    # Rounding of the running sum must not ask for units that hold nothing.
    reached = curve.kept_variance >= level * (1 - 1e-12)
    if not bool(reached.any()):
        return len(curve.kept_variance)
    return int(torch.nonzero(reached)[0]) + 1
