"""Does the local search find sets that no swap improves, and does it know what they cost?"""

from dataclasses import astuple
from itertools import combinations

import pytest
import torch

from snp.core.elimination import eliminate
from snp.core.local_search import SweptGram, local_search
from snp.core.statistics import ReaderStatistics


def consumers(seed: int, num_units: int, width: int, count: int = 1) -> list[ReaderStatistics]:
    """Readers of correlated units."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        mix = torch.randn(num_units * width, num_units * width, generator=generator, dtype=torch.float64)
        rows = torch.randn(60, num_units * width, generator=generator, dtype=torch.float64) @ mix
        weights = torch.randn(4, num_units * width, generator=generator).double()
        found.append(ReaderStatistics(rows.T @ rows, weights, width))
    return found


def error_of(parts: list[ReaderStatistics], units: list[int]) -> float:
    """Squared output error of the best refit on some units, by the normal equations."""
    total = 0.0
    for part in parts:
        gram, weight, width = part.gram, part.weighted, part.columns_per_unit
        columns = torch.tensor([unit * width + offset for unit in units for offset in range(width)])
        cross = weight @ gram[:, columns]
        explained = torch.linalg.solve(gram[columns][:, columns], cross.T)
        total += float((weight @ gram @ weight.T).trace() - (cross.T * explained).sum())
    return total


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_no_swap_improves_the_set_that_is_found(seed: int, count: int, width: int) -> None:
    """With all members tried, the result is a local optimum under exact refits, at the error that it claims."""
    parts = consumers(seed, 8, width, count)
    start = torch.tensor([0, 1, 2, 3])
    kept, gained = local_search(parts, 4, start, num_tries=8)
    reached = error_of(parts, kept.tolist())
    assert error_of(parts, start.tolist()) - reached == pytest.approx(gained, rel=1e-3)
    outside = [unit for unit in range(8) if unit not in kept.tolist()]
    for leaving in kept.tolist():
        for entering in outside:
            swapped = [unit for unit in kept.tolist() if unit != leaving] + [entering]
            assert error_of(parts, swapped) >= reached * (1 - 1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_never_worse_than_greedy_and_near_the_best(seed: int) -> None:
    """From the greedy set on it only gains; over these small sets it comes close to the best of all."""
    parts = consumers(seed, 9, 1)
    kept, gained = local_search(parts, 3)
    greedy = error_of(parts, eliminate(parts)[0][:3].tolist())
    best = min(error_of(parts, list(units)) for units in combinations(range(9), 3))
    found = error_of(parts, kept.tolist())
    assert gained >= 0
    assert best * (1 - 1e-9) <= found <= greedy * (1 + 1e-6)
    assert found <= 1.1 * best


def test_sweeping_twice_changes_nothing() -> None:
    """A unit that comes in and goes again leaves everything as it was."""
    swept = SweptGram(*astuple(consumers(0, 6, 2)[0]))
    swept.sweep(1)
    before = swept.stakes()
    swept.sweep(4)
    assert not torch.allclose(swept.stakes(), before)
    swept.sweep(4)
    torch.testing.assert_close(swept.stakes(), before)


def test_dead_and_duplicate_units_are_not_wanted() -> None:
    """A dead unit and one of two copies go out for units that hold something."""
    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).double()
    rows[:, 0], rows[:, 2] = 0.0, rows[:, 1]
    parts = [ReaderStatistics(rows.T @ rows, torch.eye(6, dtype=torch.float64), 1)]
    kept, gained = local_search(parts, 4, torch.tensor([0, 1, 2, 3]), num_tries=6)
    assert gained > 0
    assert 0 not in kept.tolist()
    assert len({1, 2} & set(kept.tolist())) == 1


def test_keeping_all_keeps_all() -> None:
    """There is nothing to swap with."""
    kept, gained = local_search(consumers(0, 5, 1), 5)
    assert kept.tolist() == list(range(5))
    assert gained == 0
