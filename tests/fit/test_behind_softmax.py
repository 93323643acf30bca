"""Does the layer that gives out class logits get probabilities that are nearer to the dense ones, elsewhere too?"""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import snp
from snp.core.sums import ALONE
from snp.fit.sequential import ToFit, fit_in_sequence
from snp.graph.batches import Batch
from snp.measure.outputs import objective_of
from snp.settings import PruneSettings
from snp.surgery.subject import subject_of
from tests.second_device import SECOND, second_device
from tests.sums import DOUBLED
from tests.transformer_models import token_batches, transformer

ASKED: dict[str, Any] = {"target_units": 0.3, "ordering": "variance", "round_to": 1, "progress": False}


class Classifier(nn.Module):
    """Two hidden layers for digits, whose logits another function may read: [N, 64] -> [N, 10]."""

    def __init__(self, behind: nn.Module | None = None, *, bias: bool = True) -> None:
        super().__init__()
        self.hidden, self.second = nn.Linear(64, 32), nn.Linear(32, 24)
        self.head, self.behind = nn.Linear(24, 10, bias=bias), behind or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.head(self.second(self.hidden(x).relu()).relu()))


def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(data.data / 16, dtype=torch.float32)[order], torch.tensor(data.target)[order]


def trained(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    model, (pixels, labels) = Classifier(**options), digits()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(pixels[:800]), labels[:800]).backward()
        optimizer.step()
    return model.eval()


def divergence(dense: nn.Module, small: nn.Module, inputs: Tensor) -> float:
    with torch.no_grad():
        found, wanted = small(inputs).log_softmax(1), dense(inputs).log_softmax(1)
        return float(F.kl_div(found, wanted, reduction="batchmean", log_target=True))


def pruned(model: nn.Module, count: int = 512, **options: Any) -> nn.Module:
    return snp.prune(model, list(digits()[0][:count].split(64)), **(ASKED | options)).model


def test_other_samples_are_nearer() -> None:
    """Samples that nothing was fitted on."""
    model, others = trained(), digits()[0][900:]
    assert divergence(model, pruned(model), others) < 0.9 * divergence(model, pruned(model, softmax=False), others)


@pytest.mark.parametrize(("count", "moves"), [(16, False), (64, False), (128, True), (256, True)])
def test_few_samples_do_no_harm(count: int, moves: bool) -> None:
    """Of fewer than 128 nothing is asked: what is held back was fitted on by all layers in front."""
    model, others = trained(), digits()[0][900:]
    usual = divergence(model, pruned(model, count, softmax=False), others)
    found = divergence(model, pruned(model, count), others)
    assert found < usual if moves else found == usual


def test_fewer_than_eight_samples_per_input_move_nothing() -> None:
    """All of 24 units read, 128 samples."""
    model = trained()
    usual, found = (pruned(model, 128, target_units=0.9, softmax=softmax) for softmax in (False, True))
    assert usual.head.in_features > 16
    assert all(map(torch.equal, usual.state_dict().values(), found.state_dict().values()))


def test_only_the_last_layer_moves() -> None:
    model = trained()
    usual, found = pruned(model, softmax=False).state_dict(), pruned(model).state_dict()
    moved = [name for name, value in found.items() if not torch.equal(value, usual[name])]
    assert moved == ["head.weight", "head.bias"]


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ({"behind": nn.Softplus()}, {}),  # its outputs are no logits of a layer
        ({"bias": False}, {}),
        ({}, {"objective": "squared"}),
        ({}, {"objective": lambda dense, small: (dense - small).square().mean()}),
        ({}, {"ridge": 1e-3}),
        ({}, {"intercept": False}),
        ({}, {"calibration": "joint"}),
    ],
    ids=["function behind", "no bias", "squared", "own objective", "ridge given", "no biases", "joint"],
)
def test_nothing_moves_where_it_does_not_belong(network: dict[str, Any], options: dict[str, Any]) -> None:
    model = trained(**network)
    usual, found = pruned(model, softmax=False, **options), pruned(model, **options)
    assert all(map(torch.equal, usual.state_dict().values(), found.state_dict().values()))


def test_language_models_are_left_alone() -> None:
    """Logits of every token are as many problems as there are tokens."""
    model, batches = transformer("opt"), token_batches(160)
    usual, found = (
        snp.prune(model, batches, target_params=0.8, softmax=softmax, trials=False, progress=False).model
        for softmax in (False, True)
    )
    assert all(map(torch.equal, usual.state_dict().values(), found.state_dict().values()))


def test_another_device_gives_the_same() -> None:
    """To the bit, as the network without it."""
    model, batches = trained(), list(digits()[0][:512].split(64))
    here = snp.prune(model, batches, **ASKED).model.state_dict()
    with second_device():
        there = snp.prune(copy.deepcopy(model).to(SECOND), batches, **ASKED).model
        assert there.head.weight.device == SECOND
        found = there.to("cpu").state_dict()
    assert all(map(torch.equal, here.values(), found.values()))


def test_two_processes_with_equal_shares_fit_as_one() -> None:
    """Each sample twice, as sums over both say: weights and mean gain are the same."""
    model, batches = trained(), Batch.all(digits()[0][:256].split(64))
    settings = PruneSettings(**{name: value for name, value in ASKED.items() if name != "progress"})
    subject = subject_of(model, batches[0].args[0][:2], settings)
    kept = {name: torch.arange(0, reader.num_columns, 2) for name, reader in subject.readers.items()}
    wanted = ToFit(subject.readers, kept, model.get_parameter, objective=objective_of(model, batches))
    found = [fit_in_sequence(subject, batches, wanted, settings.fit, sums).tensors for sums in (ALONE, DOUBLED)]
    without = fit_in_sequence(subject, batches, wanted, replace(settings.fit, softmax=False)).tensors
    assert not torch.equal(found[0]["head.weight"], without["head.weight"])
    for one, other in zip(found[0].values(), found[1].values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
