"""At which level does the network just fit the budget?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from snp.core.rounding import Rounding

__all__ = ["BudgetError", "Target", "bisect_level"]

_STEPS = 60


@dataclass(frozen=True)
class Target:
    """The one number that a prune is asked for, and how it is counted.

    Attributes:
        kind: ``"var"`` or ``"units"``, levels that every group keeps; ``"macs"``, ``"params"`` or ``"latency"``,
            budgets of the whole network.
        share: of what the dense network has, in (0, 1].
        counts_embeddings: among the parameters.
        rounding: the steps in which units are kept.
        remedies: what else could be asked for where this is out of reach, in words.
    """

    kind: str = "macs"
    share: float = 0.5
    counts_embeddings: bool = False
    rounding: Rounding = field(default=Rounding(), compare=False)
    remedies: tuple[str, ...] = field(default=(), compare=False)

    @property
    def option(self) -> str:
        """What users call it: ``prune.target_macs``."""
        return f"prune.target_{self.kind}"

    @property
    def is_budget(self) -> bool:
        """Is the level of the cut to be sought, until the network's cost fits?"""
        return self.kind in ("macs", "params", "latency")

    @property
    def is_counted(self) -> bool:
        """Is it a budget that numbers of units decide alone?"""
        return self.kind in ("macs", "params")

    @property
    def is_timed(self) -> bool:
        """Is the budget one of time?"""
        return self.kind == "latency"

    def out_of_reach(self, reached: float) -> ValueError:
        """The refusal where every group at its smallest leaves more than is asked for.

        Args:
            reached: what they leave, as a share of the dense network's.
        """
        least = math.ceil(1e3 * reached) / 1e3
        remedies = "".join(f", or {remedy}" for remedy in self.remedies)
        return ValueError(
            f"{self.option}={self.share:g} cannot be reached: with every group at its smallest, {least:.3f} of the "
            f"dense {self.kind} are left. Ask for that or more{remedies}."
        )

    @property
    def cut(self) -> str:
        """The cut that goes with it."""
        return {"var": "variance", "units": "uniform"}.get(self.kind, "output")


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
