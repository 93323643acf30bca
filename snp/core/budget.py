"""At which level does the network just fit the budget?"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["BudgetError", "bisect_level"]

_STEPS = 60


class BudgetError(ValueError):
    """The budget lies below what the cut can reach; ``reached`` is the smallest cost."""

    def __init__(self, message: str, reached: float) -> None:
        super().__init__(message)
        self.reached = reached


def bisect_level(cost: Callable[[float], float], budget: float, lowest: float = 0.0) -> float:
    """Largest level in (lowest, 1] whose cost is at most the budget.

    Args:
        cost: non-decreasing function of the level.
        budget: in the unit of ``cost``.
        lowest: level at which everything that may be cut is cut.

    Raises:
        BudgetError: even the lowest level costs more.
    """
    if cost(1.0) <= budget:
        return 1.0
    below, above = lowest, 1.0
    reached = cost(below)
    if reached > budget:
        raise BudgetError(f"the smallest reachable cost is {reached:.6g}, the budget is {budget:.6g}", reached)
    for _ in range(_STEPS):
        middle = (below + above) / 2
        if cost(middle) <= budget:
            below = middle
        else:
            above = middle
    return below
