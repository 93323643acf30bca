"""Is the level found the largest that fits the budget?"""

import math

import pytest

from snp.core.budget import BudgetError, bisect_level


def staircase(level: float) -> float:
    """Ten steps, as numbers of units make them."""
    return 0.1 + 0.09 * math.floor(level * 10)


@pytest.mark.parametrize("budget", [0.1, 0.2, 0.333, 0.5, 0.71, 0.99])
def test_level_fits_and_no_larger_one_does(budget: float) -> None:
    """The cost at the level is within the budget, just above it is not."""
    level = bisect_level(staircase, budget)
    assert staircase(level) <= budget
    assert staircase(level * (1 + 1e-12) + 1e-15) > budget


def test_continuous_costs_are_met_to_rounding() -> None:
    """Without steps the cost at the level is the budget, near both ends, too."""
    for budget in (1e-6, 0.3, 1 - 1e-12):
        assert bisect_level(lambda level: level**3, budget) ** 3 == pytest.approx(budget, rel=1e-12)


def test_levels_next_to_one_are_found() -> None:
    """A cost that only moves between 1 - 1e-9 and 1 is resolved: cumulative variances crowd there."""
    level = bisect_level(lambda x: max(0.0, (x - (1 - 1e-9)) * 1e9), 0.5)
    assert level == pytest.approx(1 - 0.5e-9, abs=1e-14)


@pytest.mark.parametrize("budget", [1.0, 5.0])
def test_enough_budget_cuts_nothing(budget: float) -> None:
    """Where everything fits the level is exactly 1."""
    assert bisect_level(staircase, budget) == 1.0


def test_unreachable_budget_says_what_is_reachable() -> None:
    """The error carries the smallest cost there is."""
    with pytest.raises(BudgetError, match=r"0\.1") as caught:
        bisect_level(staircase, 0.05)
    assert caught.value.reached == staircase(0.0)
    assert isinstance(caught.value, ValueError)


def test_lowest_level_is_respected() -> None:
    """Nothing below ``lowest`` is asked for."""
    asked: list[float] = []

    def cost(level: float) -> float:
        asked.append(level)
        return staircase(level)

    with pytest.raises(BudgetError):
        bisect_level(cost, 0.2, lowest=0.5)
    assert min(asked) == 0.5
