"""What nobody can measure is left alone with the reason, and the rest of the network is pruned."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snp
from tests.audit import outputs


class Attending(nn.Module):
    """Keys and values of a width of their own, which attention reads inside one function of PyTorch."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.query, self.keys = nn.Linear(12, 16), nn.Linear(12, 10)
        self.attention = nn.MultiheadAttention(16, 4, kdim=10, vdim=10, batch_first=True, **options)
        self.ffn = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 5))

    def forward(self, x: Tensor) -> Tensor:
        keys = self.keys(x)
        return self.ffn(self.attention(self.query(x), keys, keys)[0])


INSIDE = "read by attention.k_proj_weight inside a function of PyTorch that attention calls, where nothing can be "
REMEDY = "measured (prune.structures with vo or qk writes this attention in plain layers)"


@pytest.mark.parametrize(("options", "ending"), [({}, REMEDY), ({"add_bias_kv": True}, "measured")], ids=str)
def test_what_is_read_inside_one_function_is_left_alone(options: dict[str, Any], ending: str) -> None:
    """The reason names the weight, and the structures that help where they do."""
    torch.manual_seed(0)
    model, tokens = Attending(**options).eval(), torch.randn(64, 7, 12)
    reasons = {group.name: group.frozen for group in snp.inspect(model, tokens).groups}
    assert reasons["keys"] == INSIDE + ending
    assert reasons["ffn.0"] is None
    result = snp.prune(model, [tokens], target_units=0.5, preset="quick", progress=False)
    assert result.plan.frozen["keys"] == INSIDE + ending
    assert result.model.keys.weight.shape == (10, 12)
    assert result.model.ffn[0].weight.shape == (32, 8)


def test_attention_in_plain_layers_is_measured() -> None:
    """As the reason says."""
    torch.manual_seed(0)
    model, tokens = Attending().eval(), torch.randn(64, 7, 12)
    result = snp.prune(model, [tokens], target_units=0.5, structures=("ffn", "vo"), preset="quick", progress=False)
    assert result.model.keys.weight.shape == (5, 12)


class Complex(nn.Module):
    """A layer of complex numbers between two real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.turn, self.leave = nn.Linear(12, 24), nn.Linear(24, 16, dtype=torch.cfloat), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        turned = self.turn(self.enter(x).relu().to(torch.cfloat))
        return self.leave(torch.cat([turned.real, turned.imag], -1).relu())


@pytest.mark.filterwarnings("error:Casting complex values")
@pytest.mark.parametrize("planner", ["snp", "magnitude"])
def test_what_complex_numbers_read_is_left_alone(planner: str) -> None:
    """Complex units are cut: those of no size first; the reader's imaginary part is never lost."""
    torch.manual_seed(0)
    model, inputs = Complex().eval(), torch.randn(64, 12)
    with torch.no_grad():
        for values in (model.turn.weight, model.turn.bias):
            values[::2] *= 1e-3 if planner == "snp" else 1e-3j
            values[1::2] *= 1j
    result = snp.prune(model, [inputs], target_units=0.5, planner=planner, preset="quick", progress=False)
    assert result.plan.frozen["enter"] == (
        "read by the complex numbers of turn.weight, where nothing is measured or fitted"
    )
    assert [(decision.group.name, decision.kept.tolist()) for decision in result.plan.groups] == [
        ("turn", [*range(1, 16, 2)])
    ]
    assert (outputs(result.model, inputs) - outputs(model, inputs)).abs().max() < 1e-2
