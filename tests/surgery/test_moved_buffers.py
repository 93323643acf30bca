"""Do buffers that a network's own passes move leave a prune as they entered it?"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snp
from snp.library import prune_streamed

INPUTS = [torch.linspace(-2, 2, 640).reshape(64, 10).roll(shift) for shift in range(4)]


class Counting(nn.Module):
    """Counts its passes, in place and anew, and keeps a running mean of every unit's activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 5)
        self.register_buffer("passes", torch.zeros(()))
        self.register_buffer("again", torch.zeros(()))
        self.register_buffer("seen", torch.full((10,), 3.0))

    def forward(self, x: Tensor) -> Tensor:
        self.passes = self.passes + 1
        self.again.add_(1)
        self.seen.mul_(0.9).add_(0.1 * x.detach().mean(dim=0))
        return self.last(self.act(self.first(x)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.passes = self.passes + 1
        for block in self.blocks:
            x = block(x)
        return x


def streamed(model: nn.Module, batches: Any, **options: Any) -> Any:
    return prune_streamed(model, batches, trials=False, **options)


@pytest.mark.parametrize(("made", "prune"), [(Counting, snp.prune), (Blocks, snp.prune), (Blocks, streamed)])
def test_both_networks_have_what_was_given(made: Callable[[], nn.Module], prune: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model = made()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small = prune(model, INPUTS, target_units=0.5, progress=False).model
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    buffers = dict(small.named_buffers())
    assert buffers
    for name, value in buffers.items():
        assert torch.equal(value, before[name]), name
        assert value.data_ptr() != dict(model.named_buffers())[name].data_ptr() or prune is streamed


def test_loading_changes_no_network(tmp_path: Path) -> None:
    """Neither its buffers, which reading a parametrised weight in training moves, nor modes, nor the random state."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(10, 32), nn.GELU(), nn.Linear(32, 5))
    nn.utils.parametrizations.spectral_norm(layers[0])
    snp.save(snp.prune(layers.train(), INPUTS, target_units=0.5, progress=False), tmp_path)
    before = {name: value.clone() for name, value in layers.state_dict().items()}
    snp.load(tmp_path, layers)
    assert layers[1].training
    assert all(torch.equal(before[name], value) for name, value in layers.state_dict().items())
