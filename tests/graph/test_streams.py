"""Is a residual stream told from other sums?  One small network per sum that people write."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

import snp
from snp.graph import analyse
from snp.models import huggingface
from tests.audit import audit, randomise
from tests.graphs import IMAGES, Net, analysed, conv
from tests.transformer_models import token_batches

Sum = Callable[[Any, Tensor], Tensor]


def around(function: Sum, **layers: nn.Module) -> Net:
    """Two convolutions of eight channels around a sum of the first one's outputs."""
    return Net(
        lambda m, x: m.head(F.relu(m.last(F.relu(function(m, m.first(x))))).mean((2, 3))),
        first=conv(3, 8), **layers, last=conv(8, 6), head=nn.Linear(6, 4),
    )  # fmt: skip


class Plain(nn.Module):
    """Parameters and buffers of eight channels."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.place = nn.Parameter(torch.randn(1, 8, 1, 1)), nn.Parameter(torch.randn(1, 8, 8, 8))
        self.register_buffer("shift", torch.randn(8, 1, 1))


class LowRank(nn.Module):
    """A layer with a branch of low rank beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.down, self.up = conv(8, 8), conv(8, 2, 1, bias=False), conv(2, 8, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 0.5 * self.up(self.down(x))


def modulated(m: Any, x: Tensor) -> Tensor:
    scale, shift = m.embed(x.mean((2, 3)))[:, :, None, None].chunk(2, dim=1)
    return m.body(x) * (1 + scale) + shift


def scanned(m: Any, x: Tensor) -> Tensor:
    """A state per channel and row that fades and takes in multiples of what comes, read out beside it."""
    step = F.softplus(m.step(x))
    state, states = torch.zeros_like(x[..., 0]), []
    for column in range(x.shape[-1]):
        state = torch.exp(-step[..., column]) * state + (step * x)[..., column]
        states.append(state)
    return torch.stack(states, dim=-1) + x * m.plain.bias


NO_STREAMS: dict[str, tuple[Sum, dict[str, Callable[[], nn.Module]]]] = {
    "learned bias": (lambda m, x: x + m.plain.bias, {"plain": Plain}),
    "position table": (lambda m, x: x + m.plain.place, {"plain": Plain}),
    "buffer": (lambda m, x: x - m.plain.shift, {"plain": Plain}),
    "frozen norm": (lambda m, x: m.norm(x), {"norm": lambda: FrozenBatchNorm2d(8)}),
    "low-rank branch": (lambda m, x: m.adapted(F.relu(x)), {"adapted": LowRank}),
    "two producers": (lambda m, x: m.one(x) + m.two(x), {"one": lambda: conv(8, 8), "two": lambda: conv(8, 8, 1)}),
    "modulation": (modulated, {"body": lambda: conv(8, 8), "embed": lambda: nn.Linear(8, 16)}),
    "its own mean": (lambda m, x: x - x.mean((2, 3), keepdim=True), {}),
    "beside its depthwise layer": (lambda m, x: x + m.depth(x), {"depth": lambda: conv(8, 8, groups=8)}),
    "gate of another layer": (lambda m, x: x * torch.sigmoid(m.gate(x)) + x, {"gate": lambda: conv(8, 8)}),
    "states that take it in": (scanned, {"step": lambda: conv(8, 8), "plain": Plain}),
    "written-out activation": (lambda m, x: x * torch.sigmoid(x * m.plain.bias) + 0.5 * x, {"plain": Plain}),
}


@pytest.mark.parametrize("name", NO_STREAMS)
def test_sums_inside_a_block_are_no_streams(name: str) -> None:
    """Sums with parameters and buffers, and layers that meet with no way around them, are cut by default."""
    function, layers = NO_STREAMS[name]
    groups = analysed(around(function, **{key: build() for key, build in layers.items()})).groups
    assert groups
    assert not any(group.is_stream for group in groups)
    assert {"head.weight"} == {m.tensor for group in groups for m in group.consumers if m.tensor == "head.weight"}
    read = {member.tensor for group in groups for member in group.consumers}
    assert "last.weight" in read


def dropped(m: Any, x: Tensor) -> Tensor:
    return F.dropout(x, 0.1, m.training) + m.body(F.relu(x))


def padded_and_cropped(m: Any, x: Tensor) -> Tensor:
    y = F.pad(x, (1, 1, 1, 1))
    return y[:, :, 1:-1, 1:-1] + m.body(y)[:, :, 1:-1, 1:-1]


STREAMS: dict[str, tuple[Sum, dict[str, Callable[[], nn.Module]]]] = {
    "identity": (lambda m, x: x + m.body(F.relu(x)), {"body": lambda: conv(8, 8)}),
    "in place": (lambda m, x: m.body(F.relu(x)).add_(x), {"body": lambda: conv(8, 8)}),
    "scaled identity": (lambda m, x: 0.5 * x + m.body(x), {"body": lambda: conv(8, 8)}),
    "dropped identity": (dropped, {"body": lambda: conv(8, 8)}),
    "normed identity": (
        lambda m, x: m.norm(x) + m.body(x),
        {"norm": lambda: nn.BatchNorm2d(8), "body": lambda: conv(8, 8)},
    ),
    "pooled identity": (lambda m, x: F.avg_pool2d(x, 2) + m.body(x), {"body": lambda: conv(8, 8, stride=2)}),
    "cropped identity": (padded_and_cropped, {"body": lambda: conv(8, 8)}),
    "gated, then added": (lambda m, x: x * torch.sigmoid(f := m.body(x)) + f, {"body": lambda: conv(8, 8)}),
    "one gate for both": (
        lambda m, x: (y := x * (g := torch.sigmoid(m.gate(x.mean((2, 3))))[..., None, None])) + m.body(y) * g,
        {"gate": lambda: nn.Linear(8, 1), "body": lambda: conv(8, 8)},
    ),
    "interpolated": (lambda m, x: torch.lerp(x, m.body(x), 0.3), {"body": lambda: conv(8, 8)}),
    "layer scale": (
        lambda m, x: torch.addcmul(x, m.plain.bias, m.body(x)),
        {"plain": Plain, "body": lambda: conv(8, 8)},
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_sums_that_values_go_around_are_streams(name: str) -> None:
    """What is added goes by the sum, whatever is done to it on the way, and whatever tied the parts before."""
    function, layers = STREAMS[name]
    groups = analysed(around(function, **{key: build() for key, build in layers.items()})).groups
    (stream,) = (group for group in groups if group.is_stream)
    assert {"last.weight"} <= {member.tensor for member in stream.consumers}
    assert {"first.weight", "body.weight"} == {member.tensor for member in stream.producers}


def test_mamba_is_cut_by_default() -> None:
    """Its inner channels are read out of states that are multiples of them: no stream, and 40 % of the MACs can go."""
    torch.manual_seed(0)
    config = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4, "model_type": "mamba"}
    model, batches = randomise(huggingface.build(config=config, auto_class=huggingface.CAUSAL)), token_batches()
    inner = next(group for group in analyse(model, batches[0][:2]).groups if group.name.endswith("in_proj"))
    assert not inner.is_stream
    assert audit(model, [inner], batches[0]) < 1e-5
    result = snp.prune(model, batches, target_macs=0.6, calibration="joint")
    assert result.plan.macs["pruned"] < 0.6 * result.plan.macs["dense"]


def test_frozen_norms_let_units_be_cut_by_default() -> None:
    """Buffers are cut along; without streams the units behind a frozen norm go."""
    model = around(lambda m, x: m.norm(x), norm=FrozenBatchNorm2d(8))
    analysed(model)
    result = snp.prune(model, [IMAGES.repeat(8, 1, 1, 1)], target_units=0.5, ordering="variance", calibration="joint")
    assert {len(decision.kept) for decision in result.plan.groups} == {4, 3}
    assert result.model.norm.running_var.shape == (4,)
