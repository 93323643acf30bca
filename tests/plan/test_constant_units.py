"""Units with one value for every input go first where the layer behind can add a constant."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snp

ROWS = torch.randn(512, 20, generator=torch.Generator().manual_seed(1))
OTHERS = torch.randn(256, 20, generator=torch.Generator().manual_seed(2))


def slimmed(*behind: nn.Module) -> nn.Sequential:
    """Scales of the last eight of sixteen units are zero, their biases are not."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(20, 16), nn.BatchNorm1d(16), nn.ReLU(), *(behind or [nn.Linear(16, 4)])).eval()
    layers[1].weight.data[8:] = 0
    layers[1].bias.data[8:] = torch.linspace(0.5, 2, 8)
    return layers


def apart(model: nn.Module, small: nn.Module, rows: Tensor = OTHERS) -> float:
    with torch.no_grad():
        dense = model(rows)
        return float((small(rows) - dense).square().mean() / dense.var(dim=0).mean())


@pytest.mark.parametrize(
    "options",
    [{}, {"objective": "squared"}, {"trials": False}, {"ordering": "zca"}, {"ordering": "residual", "cut": "uniform"}],
    ids=str,
)
def test_they_go_without_loss(options: dict[str, Any]) -> None:
    """What they gave stands in the bias then."""
    model = slimmed()
    result = snp.prune(model, ROWS.split(64), target_units=0.5, round_to=1, progress=False, **options)
    assert result.plan.groups[0].kept.tolist() == [*range(8)]
    assert apart(model, result.model) < 1e-10


def test_a_mean_behind_takes_them_over() -> None:
    """A layer without a bias whose outputs alone a BatchNorm normalises."""
    model = slimmed(nn.Linear(16, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4))
    result = snp.prune(model, ROWS.split(64), target_units=0.5, round_to=1, ignore=["6"], progress=False)
    first = {decision.group.name: decision.kept.tolist() for decision in result.plan.groups}["0"]
    assert first == [*range(8)]


def test_where_nothing_can_be_added_one_of_them_is_worth_something() -> None:
    """Without a bias the layer behind has its constant from one of them; a joint fit adds none, either."""
    bare = slimmed(nn.Linear(16, 4, bias=False))
    for model, options in ((bare, {}), (slimmed(), {"calibration": "joint"})):
        result = snp.prune(model, ROWS.split(64), target_units=9 / 16, round_to=1, progress=False, **options)
        assert result.plan.groups[0].kept.tolist()[:8] == [*range(8)]
        assert len(result.plan.groups[0].kept) == 9
        assert apart(model, result.model) < 1e-5


@pytest.mark.parametrize("size", [1, 3])
def test_convolutions_that_are_fitted_no_constant_keep_one(size: int) -> None:
    """By channel they are folded as the paper says; fitted by their outputs they need none."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, size)]
    model, images = nn.Sequential(*layers).eval(), torch.randn(128, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    model[1].weight.data[8:], model[1].bias.data[8:] = 0, torch.linspace(0.5, 2, 8)
    for options, kept in (({}, 0), ({"conv_gram": "channel"}, 1)):
        result = snp.prune(model, images.split(32), target_units=0.5, round_to=1, progress=False, **options)
        assert sum(unit >= 8 for unit in result.plan.groups[0].kept.tolist()) == kept
        assert apart(model, result.model, images) < (0.3 if kept else 1e-10)


def test_a_map_that_is_folded_by_channel_keeps_one() -> None:
    """Behind a flatten of more columns than a Gram matrix is formed of."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 576, 4)]
    model, images = nn.Sequential(*layers).eval(), torch.randn(48, 3, 24, 24)
    model[1].weight.data[8:], model[1].bias.data[8:] = 0, torch.linspace(0.5, 2, 8)
    result = snp.prune(model, images.split(16), target_units=0.5, round_to=1, progress=False)
    assert sum(unit >= 8 for unit in result.plan.groups[0].kept.tolist()) == 1
    assert apart(model, result.model, images) < 0.1


def test_samples_that_are_one_say_nothing() -> None:
    """All units are constant then."""
    model = slimmed()
    result = snp.prune(model, [ROWS[:1].expand(8, 20).clone()], target_units=0.5, round_to=1, progress=False)
    assert len(result.plan.groups[0].kept) == 8
