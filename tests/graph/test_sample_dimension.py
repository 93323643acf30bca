"""Are samples that lie along the second dimension refused, and is nothing else?"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snp
from snp.graph.batch_form import parsed
from snp.library import prune_streamed
from tests.networks import cnn, images, language, words

STEPS, SAMPLES = 9, 16


class Sequences(nn.Module):
    """Layers in front of a sequence model and behind it: [T, N, 12] -> [T, N, 5], or what ``ends`` makes of that."""

    def __init__(self, layer: nn.Module, ends: Callable[[Tensor], Tensor] = lambda x: x, table: bool = False) -> None:
        super().__init__()
        self.first, self.layer, self.ends = nn.Linear(12, 16), layer, ends
        self.second, self.head = nn.Linear(16, 24), nn.Linear(24, 5)
        self.table = nn.Parameter(torch.randn(STEPS, 1, 16)) if table else None

    def forward(self, x: Tensor, **masks: Tensor) -> Tensor:
        x = self.first(x).relu() if self.table is None else self.first(x) + self.table
        x = self.layer(x, **masks)
        return self.head(self.second(self.ends(x[0] if isinstance(x, tuple) else x)).relu())


class Tokens(nn.Module):
    """Of text, as recurrent language models of PyTorch's examples: [T, N] -> [T * N, 11], and states [2, N, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Embedding(11, 8), nn.GRU(8, 8, 2), nn.Linear(8, 11)

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, state = self.layer(self.embed(tokens), state)
        return self.head(x).flatten(0, 1), state


class Translation(nn.Module):
    """Encoder and decoder: [S, N, 8], [T, N, 8] -> [T, N, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.Transformer(8, 2, 1, 1, 16), nn.Linear(8, 5)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.head(self.layers(source, target))


def encoder(**options: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 32, **options)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


def series(steps: int = STEPS, samples: int = SAMPLES) -> Tensor:
    return torch.randn(steps, samples, 12, generator=torch.Generator().manual_seed(0))


PADDING = torch.arange(STEPS) > torch.randint(4, STEPS, (SAMPLES, 1), generator=torch.Generator().manual_seed(1))
SECOND: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "LSTM, last step": (lambda: Sequences(nn.LSTM(16, 16), lambda x: x[-1]), series()),
    "LSTM, every step": (lambda: Sequences(nn.LSTM(16, 16)), series()),
    "as many steps as samples": (lambda: Sequences(nn.GRU(16, 16), lambda x: x[-1]), series(8, 8)),
    "two samples of two steps": (lambda: Sequences(nn.GRU(16, 16)), series(2, 2)),
    "steps without order": (lambda: Sequences(nn.Identity(), lambda x: x.mean(0)), series()),
    "transformer": (lambda: Sequences(encoder()), series()),
    "transformer, both masks": (
        lambda: Sequences(encoder()),
        {"x": series(), "mask": torch.ones(STEPS, STEPS).triu(1).bool(), "src_key_padding_mask": PADDING},
    ),
    "table of positions": (lambda: Sequences(encoder(), table=True), series()),
    "steps that come out behind samples": (
        lambda: Sequences(nn.LSTM(16, 16), lambda x: x.transpose(0, 1)), series(),
    ),
    "tokens": (Tokens, torch.arange(STEPS * SAMPLES).reshape(STEPS, SAMPLES) % 11),
    "tokens and states": (
        Tokens, {"tokens": torch.arange(STEPS * SAMPLES).reshape(STEPS, SAMPLES) % 11,
                 "state": torch.randn(2, SAMPLES, 8)},
    ),
    "encoder and decoder": (Translation, ((torch.randn(7, SAMPLES, 8), torch.randn(STEPS, SAMPLES, 8)), None)),
}  # fmt: skip


def built(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


def form(model: nn.Module, raw: Any) -> list[Any]:
    return list(parsed(model, [raw]))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")  # of PyTorch, for steps that come first
@pytest.mark.parametrize("name", SECOND)
def test_samples_along_the_second_dimension_are_refused(name: str) -> None:
    """The default layout of PyTorch's recurrent layers and transformers; the numbers are told."""
    make, raw = SECOND[name]
    with pytest.raises(ValueError, match=r"holds (16|8|2) samples of (9|8|7|2) steps.*batch_first=True"):
        form(built(make), raw)


def test_every_call_refuses_them_in_the_same_words() -> None:
    model, batch = built(lambda: Sequences(nn.LSTM(16, 16), lambda x: x[-1])), series(50, 64)
    said = r"^\[0\]\[0\] \[50, 64, 12\] of the first batch holds 64 samples of 50 steps"
    with pytest.raises(ValueError, match=said):
        snp.prune(model, [batch], target_macs=0.5)
    with pytest.raises(ValueError, match=said):
        snp.inspect(model, batch)
    with pytest.raises(ValueError, match=said):
        prune_streamed(model, [batch], target_macs=0.5, trials=False)


class Transposed(nn.Module):
    """The module that the docs show."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.transpose(0, 1)).transpose(0, 1)


@pytest.mark.parametrize("layer", [lambda: nn.LSTM(16, 16), encoder], ids=["LSTM", "transformer"])
def test_a_module_around_it_makes_budgets_true(layer: Callable[[], nn.Module], tmp_path: Path) -> None:
    """Costs and samples are those of sequences; the network inside is the small one, and loads again."""
    model, batches = built(lambda: Transposed(Sequences(layer()))), [series(samples=64).transpose(0, 1)]
    result = snp.prune(model, batches, target_units=0.5, cut="uniform", calibration="joint", planner="magnitude")
    assert result.plan.settings["samples"] == 64
    assert result.plan.macs["dense"] >= STEPS * (12 * 16 + 16 * 24 + 24 * 5)
    assert result.model.network.second.out_features == 12
    snp.save(result, tmp_path)
    with torch.no_grad():
        assert torch.equal(snp.load(tmp_path, Transposed(Sequences(layer())))(batches[0]), result.model(batches[0]))


class Drawn(nn.Module):
    """Steps on their own, with noise in evaluation, too."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class Kept(nn.Module):
    """Remembers what it saw, in a buffer and beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(()))
        self.state: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.state is None or len(self.state) != len(x):
            self.state = torch.zeros(len(x), 16)
        self.state = 0.5 * self.state + x.mean(1).detach()
        return x + self.state[:, None]


FIRST: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "LSTM": (lambda: Sequences(nn.LSTM(16, 16, batch_first=True), lambda x: x[:, -1]), series()),
    "LSTM, every step": (lambda: Sequences(nn.LSTM(16, 16, batch_first=True)), series()),
    "transformer": (lambda: Sequences(encoder(batch_first=True)), series()),
    "transformer, a mask for all": (
        lambda: Sequences(encoder(batch_first=True)),
        {"x": series(), "mask": torch.ones(SAMPLES, SAMPLES).triu(1).bool()},
    ),
    "steps on their own": (lambda: Sequences(nn.Identity()), series()),
    "convolutions and norms": (cnn, images(8)),
    "causal language model": (language, words(6)),
    "one sample": (lambda: Sequences(nn.LSTM(16, 16)), series(1)),
    "one sequence, steps first": (lambda: Sequences(nn.LSTM(16, 16)), series(samples=1)),
    "features less the mean of samples": (lambda: nn.Sequential(Centred(), nn.Linear(12, 5)), series()[0]),
    "a mean over all": (lambda: Sequences(nn.Identity(), lambda x: x.mean((0, 1))), series()),
    "one number": (lambda: Summed(nn.Linear(12, 5)), series()),
    "random": (lambda: Sequences(Drawn()), series()),
    "state": (lambda: Sequences(Kept()), series()),
}  # fmt: skip


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Summed(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).square().mean()


@pytest.mark.parametrize("name", FIRST)
def test_nothing_else_is_refused(name: str) -> None:
    make, raw = FIRST[name]
    assert len(form(built(make), raw)) == 1


def test_networks_and_chance_are_left_as_they_were() -> None:
    """Looking is one call more, of which nothing stays behind."""
    model = built(lambda: Sequences(Kept(), lambda x: Drawn()(x)))
    torch.manual_seed(3)
    wanted = [model(series()), model(series()), torch.rand(2)]
    model = built(lambda: Sequences(Kept(), lambda x: Drawn()(x)))
    torch.manual_seed(3)
    form(model, series())
    assert float(model.layer.calls) == 1
    torch.testing.assert_close([model(series()), torch.rand(2)], wanted[1:], rtol=0, atol=0)


def test_few_samples_are_looked_at() -> None:
    """All of the first batch once, as before, and two of it again."""
    sizes = list[int]()
    model = cnn()
    model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    form(model, images(32))
    assert sizes == [32, 2]
