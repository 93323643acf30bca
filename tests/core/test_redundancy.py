"""Are copies found up to a factor, and do they go before anything that only one unit holds?"""

import pytest
import torch
from torch import Tensor

from snp.core import orderings
from snp.core.orderings import GroupStatistics, ReaderStatistics
from snp.core.redundancy import find_copies
from snp.core.shrinkage import shrunk

SEES_COPIES = ("output", "pivoted", "residual", "zca")


def planted(width: int, seed: int, count: int = 60) -> Tensor:
    """Samples of twelve units: 6..9 are multiples of 0..3, 10 and 11 are dead, 4 and 5 hold next to nothing."""
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn(count, 12, width, generator=generator)
    columns[:, 6:10] = columns[:, 0:4] * torch.tensor([1.0, -2.0, 0.5, 4.0])[:, None]
    columns[:, 10:] = 0
    columns[:, 4:6] *= 1e-3
    return columns.reshape(count, -1).double()


def statistics(columns: Tensor, width: int, count: int | None = None) -> GroupStatistics:
    gram = columns.T @ columns / len(columns)
    weight = torch.randn(5, columns.shape[1], generator=torch.Generator().manual_seed(9)).double()
    reader = ReaderStatistics(gram if count is None else shrunk(gram, count), weight, width)
    return GroupStatistics(gram, weight, width, torch.Generator(), (reader,))


def test_copies_are_found_with_their_factors() -> None:
    """Each multiple names the unit that it is a multiple of; dead units are nobody's copies."""
    columns = planted(1, 0)
    found = find_copies(columns.T @ columns)
    assert found.originals.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.owner[6:10].tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(found.factor[6:10], torch.tensor([1.0, -2.0, 0.5, 4.0]).double())
    assert found.factor[10:].tolist() == [0.0, 0.0]
    assert set(found.last[-2:].tolist()) == {10, 11}


def test_what_differs_in_little_is_no_copy() -> None:
    """A thousandth of a unit's own, on top of a mean a thousand times as large."""
    generator = torch.Generator().manual_seed(0)
    columns = 1 + 1e-3 * torch.randn(500, 4, generator=generator).double()
    assert find_copies(columns.T @ columns).originals.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("count", [None, 5, 60])
@pytest.mark.parametrize("name", SEES_COPIES)
def test_one_of_two_copies_stays_before_the_other_goes(name: str, count: int | None, width: int) -> None:
    """Whatever is worth little goes after the redundant ones, few samples or many; dead units go first of all."""
    for seed in range(5):
        order = orderings.load(name)(statistics(planted(width, seed), width, count)).tolist()
        assert sorted(order) == list(range(12))
        assert set(order[-2:]) == {10, 11}
        assert all((unit in order[:6]) != (unit + 6 in order[:6]) for unit in range(4))
        assert {4, 5} <= set(order[:6])


@pytest.mark.parametrize("name", SEES_COPIES)
def test_order_of_the_others_is_that_of_the_network_without_copies(name: str) -> None:
    """With the weights of the copies, times their factors, added to those of the units that stay."""
    columns, factor = planted(1, 3), torch.tensor([1.0, -2.0, 0.5, 4.0]).double()
    whole = statistics(columns, 1)
    weight = whole.outgoing.clone()
    weight[:, :4] += weight[:, 6:10] * factor
    gram = whole.gram[:6, :6]
    alone = GroupStatistics(gram, weight[:, :6], 1, torch.Generator(), (ReaderStatistics(gram, weight[:, :6], 1),))
    assert orderings.load(name)(whole).tolist()[:6] == orderings.load(name)(alone).tolist()


@pytest.mark.parametrize("name", SEES_COPIES)
def test_all_dead_units_are_an_order(name: str) -> None:
    """Nothing to tell apart."""
    assert sorted(orderings.load(name)(statistics(planted(1, 0) * 0, 1)).tolist()) == list(range(12))
