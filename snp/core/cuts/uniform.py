"""How many units stay when every group keeps the same share of them?"""

from snp.core.cuts import Curve

__all__ = ["num_kept"]


def num_kept(curve: Curve, level: float) -> int:
    """The share ``level`` in (0, 1] of the units, to the nearest unit, in 1..U."""
    num_units = len(curve.kept_variance)
    return min(num_units, max(1, int(level * num_units + 0.5)))
