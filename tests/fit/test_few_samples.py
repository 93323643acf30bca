"""With few, constant or far-off samples a fit is never worse than deletion, on samples that it has not seen."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snp
from snp.surgery.surgery import masked_weights, with_weights

OPTIONS: list[dict[str, Any]] = [{}, {"calibration": "joint"}]


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)]
    return nn.Sequential(*layers).eval()


def errors(model: nn.Module, calibration: Tensor, test: Tensor, options: dict[str, Any]) -> tuple[float, float]:
    """Of the fitted network, and of plain deletion of the same units with what rounding may add."""
    found = []
    for reconstruct in (True, False):
        settings = {"target_units": 0.5, "ordering": "zca", "reconstruct": reconstruct} | options
        result = snp.prune(model, [calibration], **settings)
        with torch.no_grad():
            found.append(float((result.model.eval()(test) - model(test)).norm()))
    with torch.no_grad():
        rounding = 1e-6 * float(model(test).norm())
    return found[0], found[1] + rounding


@pytest.mark.parametrize("options", OPTIONS, ids=["sequence", "joint"])
@pytest.mark.parametrize("count", [1, 4])
def test_few_samples(count: int, options: dict[str, Any]) -> None:
    """One sample says nothing, a few say a little."""
    for seed in range(2):
        rows = torch.randn(count, 20, generator=torch.Generator().manual_seed(seed))
        test = torch.randn(256, 20, generator=torch.Generator().manual_seed(9))
        fitted, deleted = errors(network(seed), rows, test, options)
        assert fitted <= deleted * 1.001


@pytest.mark.parametrize("options", OPTIONS, ids=["sequence", "joint"])
@pytest.mark.parametrize("count", [4, 16])
def test_repeated_samples_count_once(count: int, options: dict[str, Any]) -> None:
    """Sixteen times the same: what is held back would else be what was fitted."""
    rows = torch.randn(count, 20, generator=torch.Generator().manual_seed(0))
    again = rows[torch.randperm(16 * count, generator=torch.Generator().manual_seed(1)) % count]
    settings: dict[str, Any] = {"target_units": 0.5, "ordering": "zca"} | options
    result = snp.prune(network(0), list(again.split(32)), **settings)
    assert result.plan.settings["samples"] == count
    assert result.plan.settings["repeats"] == 15 * count
    assert f"{15 * count} more samples were equal" in str(result)
    test = torch.randn(256, 20, generator=torch.Generator().manual_seed(9))
    fitted, deleted = errors(network(0), again, test, options)
    assert fitted <= deleted * 1.001


@pytest.mark.parametrize("noise", [1e-4, 1e-2])
def test_near_copies_count_once(noise: float) -> None:
    """Sixteen samples sixteen times with a little noise are sixteen, and do no harm on samples drawn anew."""
    for seed in range(3):
        model, generator = network(seed), torch.Generator().manual_seed(1000 + seed)
        rows, test = (torch.randn(number, 20, generator=generator) for number in (16, 1024))
        again = rows.repeat(16, 1)[torch.randperm(256, generator=generator)]
        again = again + noise * torch.randn(256, 20, generator=generator)
        result = snp.prune(model, list(again.split(64)), target_macs=0.5, progress=False)
        assert (result.plan.settings["samples"], result.plan.settings["repeats"]) == (16, 240)
        assert "240 more samples were equal to one of the others, or nearly" in str(result)
        deleted = with_weights(model, masked_weights(model, result.plan))
        with torch.no_grad():
            fitted, cut = (float((other(test) - model(test)).norm()) for other in (result.model.eval(), deleted))
        assert fitted <= 1.03 * cut


@pytest.mark.parametrize("options", OPTIONS, ids=["sequence", "joint"])
def test_a_large_mean_is_no_rounding(options: dict[str, Any]) -> None:
    """10,000 times the spread: what the layers lose is made up for, or left as deletion leaves it."""
    for seed in range(2):
        rows, test = (
            torch.randn(256, 20, generator=torch.Generator().manual_seed(number)) + 1e4 for number in (seed, 9)
        )
        fitted, deleted = errors(network(seed), rows, test, options)
        assert fitted <= deleted * 1.001
