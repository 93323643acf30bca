"""Units that equal others go without loss, from however few samples."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snp


def pictures(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def flattening() -> nn.Sequential:
    """Eight channels and their copies, each position of which a linear layer reads by a column of its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1600, 8)).eval()
    for values in (model[0].weight.data, model[0].bias.data):
        values[8:] = values[:8]
    return model


def normalised() -> nn.Sequential:
    """Two copies of every channel, norms included, and a convolution between them and the flattened map."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 6, 3), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(6 * 64, 5)).eval()
    model[1].running_mean.uniform_(-0.2, 0.2)
    model[1].bias.data.uniform_(-0.2, 0.2)
    for layer in model[:2]:
        for values in [*layer.parameters(), *layer.buffers()]:
            if values.ndim:
                values.data[[1, 3, 5, 7, 9, 11]] = values.data[[0, 2, 4, 6, 8, 10]]
    return model


def apart(model: nn.Module, small: nn.Module) -> float:
    """Squared error beside the outputs' spread, on samples of which none was seen."""
    with torch.no_grad():
        dense, found = model(pictures(64, 9)), small(pictures(64, 9))
        return float((found - dense).square().mean() / dense.var(dim=0).mean())


@pytest.mark.parametrize("options", [{}, {"preset": "paper"}, {"preset": "quick"}, {"ridge": 1e-4}], ids=str)
@pytest.mark.parametrize("count", [8, 160])
def test_copies_behind_a_flatten_cost_nothing(count: int, options: dict[str, Any]) -> None:
    """A fit to few samples finds any of 1,600 columns explained by others."""
    model = flattening()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = pictures(count).split(40)
    result = snp.prune(model, batches, target_units=0.5, round_to=1, progress=False, **options)
    assert result.plan.groups[0].kept.tolist() == [*range(8)]
    assert apart(model, result.model) < 1e-10
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_copies_behind_norms_cost_nothing() -> None:
    """One group of two has them; the other is left whole."""
    model = normalised()
    result = snp.prune(model, [pictures(16)], target_units=0.5, round_to=1, ignore=["6"], progress=False)
    kept = {decision.group.name: [unit // 2 for unit in decision.kept.tolist()] for decision in result.plan.groups}
    assert sorted(kept["0"]) == [*range(6)]
    assert apart(model, result.model) < 1e-10


def test_deletion_stays_deletion() -> None:
    """Where nothing is to take over nothing moves: what copies did is gone."""
    model = flattening()
    result = snp.prune(model, [pictures(40)], target_units=0.5, round_to=1, reconstruct=False, progress=False)
    by_hand = flattening()
    by_hand[3].weight.data[:, 800:] = 0
    with torch.no_grad():
        torch.testing.assert_close(result.model(pictures(8)), by_hand(pictures(8)))


def test_equal_weights_that_see_other_inputs_are_no_copies() -> None:
    """Blocks of a grouped convolution read other channels each."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(1600, 4)]
    model = nn.Sequential(*layers).eval()
    for values in (model[2].weight.data, model[2].bias.data):
        values[8:] = values[:8]
    result = snp.prune(model, pictures(160).split(40), target_units=0.5, round_to=1, ignore=["0"], progress=False)
    deleted = snp.prune(
        model, pictures(160).split(40), target_units=0.5, round_to=1, ignore=["0"], progress=False, reconstruct=False
    )
    assert apart(model, result.model) <= 1.05 * apart(model, deleted.model)


class Filtering(nn.Module):
    """Complex gates between two transforms, as GFNet has them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 16), nn.Linear(16, 5)
        self.gate = nn.Parameter(torch.randn(4, 16, dtype=torch.cfloat))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.fft.irfft(torch.fft.rfft(self.a(x), dim=1) * self.gate, n=6, dim=1).relu())


@pytest.mark.parametrize("part", ["both", "real"])
def test_copies_behind_complex_gates_cost_nothing(part: str) -> None:
    """Copies are units whose gates have equal real and imaginary parts; one of the two does not do."""
    torch.manual_seed(0)
    model, tokens = Filtering().eval(), torch.randn(64, 6, 12)
    with torch.no_grad():
        for values in (model.a.weight, model.a.bias):
            values[8:] = values[:8]
        gate = model.gate[:, :8] if part == "both" else torch.complex(model.gate.real[:, :8], model.gate.imag[:, 8:])
        model.gate[:, 8:] = gate
        result = snp.prune(model, [tokens], target_units=0.5, round_to=1, progress=False, preset="quick")
        apart = (result.model(tokens) - model(tokens)).square().mean() / model(tokens).var()
    assert result.model.gate.shape == (4, 8)
    assert result.model.gate.dtype == torch.cfloat
    assert (float(apart) < 1e-10) == (part == "both")
