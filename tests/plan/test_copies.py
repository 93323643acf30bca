"""Dead units and exact copies go first, one of each pair, whatever the number of samples and the readers."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snp
from snp.core import orderings
from snp.core.orderings import GroupStatistics, ReaderStatistics
from snp.core.redundancy import find_copies
from tests.graph.test_graph import Net, conv

COPIES = {9: 1, 10: 2, 11: 5}
DEAD = (8, 12)


def planted(model: nn.Module, layer: nn.Module) -> nn.Module:
    """Three copies and two dead units among 16."""
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias):
            for copy, original in COPIES.items():
                tensor[copy] = tensor[original]
            tensor[list(DEAD)] = 0.0
    return model.eval()


def dense(seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 10))
    return planted(model, model[0]), (20,)


def pooled(seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A classifier behind a pooling, which sees one sample per image."""
    torch.manual_seed(seed)
    layers = [conv(3, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    model = nn.Sequential(*layers)
    return planted(model, model[0]), (3, 6, 6)


def two_readers(seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """One of which sees a flattened map."""
    torch.manual_seed(seed)

    def forward(m: Net, x: Tensor) -> Tensor:
        x = F.relu(m.stem(x))
        return m.flat(x.flatten(1)) + F.relu(m.second(x)).mean((2, 3))

    model = Net(forward, stem=conv(3, 16), second=conv(16, 4), flat=nn.Linear(16 * 16, 4))
    return planted(model, model.stem), (3, 4, 4)


@pytest.mark.parametrize("count", [40, 400])
@pytest.mark.parametrize("options", [{}, {"calibration": "joint"}], ids=["sequence", "joint"])
@pytest.mark.parametrize("ordering", [name for name in orderings.names() if name not in orderings.BLIND])
@pytest.mark.parametrize("network", [dense, pooled, two_readers])
def test_the_redundant_units_go_and_no_pair_goes(
    network: Any, ordering: str, options: dict[str, Any], count: int
) -> None:
    """11 of 16 units are kept: one of each pair, and no dead one; the outputs stay."""
    model, shape = network(count)
    rows = torch.randn(count, *shape, generator=torch.Generator().manual_seed(count))
    result = snp.prune(
        model, list(rows.split(count // 8)), target_units=11 / 16, ordering=ordering, round_to=1, **options
    )
    gone = set(result.plan.groups[0].cut.tolist())
    assert len(gone) == 5
    assert set(DEAD) < gone
    assert all((copy in gone) != (original in gone) for copy, original in COPIES.items())
    if network is not two_readers:  # whose second convolution is cut, too
        with torch.no_grad():
            torch.testing.assert_close(result.model.eval()(rows), model(rows), rtol=1e-2, atol=2e-3)


def test_damage_of_redundant_units_is_none_and_copies_count_for_what_stays() -> None:
    """The curve is that of the units that differ, with flat steps where the order takes a redundant one."""
    rows = torch.randn(50, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[:, 3], rows[:, 4] = 2 * rows[:, 1], 0.0
    weights = torch.arange(10.0, dtype=torch.float64).reshape(2, 5)
    readers = (ReaderStatistics(rows.T @ rows, weights, 1),)
    given = GroupStatistics(rows.T @ rows, weights, 1, torch.Generator(), readers)
    found = find_copies(given.gram)
    folded = found.left_out_of(given)
    torch.testing.assert_close(folded.outgoing, torch.tensor([[0.0, 7.0, 2.0], [5.0, 22.0, 7.0]]).double())
    torch.testing.assert_close(rows[:, :3] @ folded.readers[0].weighted.T, rows @ weights.T)
    assert found.with_last(torch.tensor([2, 0, 1])).tolist() == [2, 0, 1, 3, 4]

    def damage_of(distinct: Tensor) -> Tensor:
        assert distinct.tolist() == [2, 0, 1]
        return torch.tensor([7.0, 3.0, 1.0, 0.0])

    assert found.damage(torch.tensor([3, 2, 4, 0, 1]), damage_of).tolist() == [7.0, 7.0, 3.0, 3.0, 1.0, 0.0]
    assert found.none().damage(torch.arange(5), lambda order: order.new_zeros(6)).tolist() == [0.0] * 6


def test_partitions_and_single_samples() -> None:
    """A grouped convolution's blocks do not stand in for each other; one sample says nothing of factors."""
    assert find_copies(torch.zeros(4, 4, dtype=torch.float64)).originals.tolist() == [0]
    equal = torch.ones(4, 4, dtype=torch.float64)
    assert find_copies(equal).originals.tolist() == [0]
    assert find_copies(equal, 2).owner.tolist() == [0, 0, 2, 2]
    one = torch.tensor([1.0, 2.0, 2.0, 0.0, 5.0], dtype=torch.float64)
    found = find_copies(torch.outer(one, one))
    assert found.originals.tolist() == [0, 1, 4]
    assert found.last.tolist() == [2, 3]
