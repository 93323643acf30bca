"""Do weights that hooks compute become plain ones, and are networks that cannot be copied or cut named?"""

import threading
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.utils.prune as masks
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

import snp
from snp.graph.batches import Batch
from snp.graph.borrowed import refuse_borrowed
from snp.graph.copies import copied
from snp.graph.plain_weights import with_plain_weights
from snp.library import prune_streamed
from snp.surgery.surgery import with_weights
from tests.audit import randomise
from tests.networks import images

IMAGES = images(32)


class Lambdas(nn.Module):
    """A function over the module itself, made with it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
        self.hidden = lambda x: self.first(x).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(x))


def deep() -> nn.Sequential:
    layers = [nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)]
    return nn.Sequential(*layers)


def patched() -> nn.Module:
    """A layer's forward is a function over the old one."""
    model = deep()
    layer: Any = model[4]
    old = layer.forward
    layer.forward = lambda x: old(x) + 1
    return model


@pytest.mark.parametrize(("make", "name"), [(Lambdas, "first.weight"), (patched, "4.weight")])
def test_functions_that_hold_a_layer_of_the_given_network_are_named(make: Callable[[], nn.Module], name: str) -> None:
    """The small network would compute with the dense one's layer; methods and partial functions are copied with it."""
    rows = [torch.randn(64, 8, generator=torch.Generator().manual_seed(0))]
    options: dict[str, Any] = {"target_units": 0.75, "round_to": 1, "trials": False, "progress": False}
    with pytest.raises(ValueError, match=rf"computes with {name} of the network it was copied from: a function in it"):
        snp.prune(make().eval(), rows, **options)
    with pytest.raises(ValueError, match=r"computes with 4\.weight"):
        prune_streamed(patched().eval(), rows, **options)
    bound: Any = deep().eval()
    bound[0].forward = partial(nn.Linear.forward, bound[0])
    for prune in (snp.prune, prune_streamed):
        assert prune(bound, rows, **options).model(rows[0]).shape == (64, 4)


def test_what_a_copy_shares_on_purpose_is_its_own() -> None:
    """Tensors that lose nothing are the dense network's own where a prune is streamed."""
    model, batch = patched(), Batch.of(torch.randn(2, 8))
    refuse_borrowed(with_weights(model, {}, share=True), model, batch)
    with pytest.raises(ValueError, match=r"computes with 4\.weight"):
        refuse_borrowed(copied(model), model, batch)


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)
    return randomise(nn.Sequential(*layers))


def old(norm: Callable[[nn.Module], Any]) -> Callable[[nn.Sequential], None]:
    def apply(model: nn.Sequential) -> None:
        for layer in (model[0], model[2], model[5]):
            norm(layer)

    return apply


def masked(model: nn.Sequential) -> None:
    masks.ln_structured(model[0], "weight", 0.25, n=2, dim=0)
    masks.random_unstructured(model[2], "weight", 0.3)
    masks.l1_unstructured(model[2], "weight", 0.2)  # a second mask on the first one
    masks.l1_unstructured(model[5], "bias", 0.5)


HOOKS = {"weight norm": old(weight_norm), "spectral norm": old(spectral_norm), "masks": masked}


def hooked(name: str, *, passed: bool) -> nn.Sequential:
    model = plain()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the old weight norm
        HOOKS[name](model)
    if passed:
        model.train()(IMAGES).sum().backward()
    return model.eval()


@pytest.mark.parametrize("passed", [False, True], ids=["as made", "after a training step"])
@pytest.mark.parametrize("name", HOOKS)
def test_weights_of_hooks_become_plain(name: str, passed: bool) -> None:
    """The same function by plain layers; the model given keeps its hooks."""
    model = hooked(name, passed=passed)
    with torch.no_grad():
        wanted = model(IMAGES)
    names = set(model.state_dict())
    found = with_plain_weights(model)
    assert set(found.state_dict()) == set(plain().state_dict())
    assert all(isinstance(found[i].weight, nn.Parameter) for i in (0, 2, 5))
    assert set(model.state_dict()) == names != set(found.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(found(IMAGES), wanted)


@pytest.mark.parametrize("name", HOOKS)
def test_hooked_networks_are_pruned_and_come_back(name: str, tmp_path: Path) -> None:
    """From the call to the file and back, into a model that has hooks itself."""
    model = hooked(name, passed=True)
    result = snp.prune(model, [IMAGES], target_units=0.5, cut="uniform", ordering="variance", calibration="joint")
    assert [len(decision.kept) for decision in result.plan.groups] == [4, 3]
    snp.save(result, tmp_path)
    back = snp.load(tmp_path, hooked(name, passed=False))
    with torch.no_grad():
        assert torch.equal(back(IMAGES), result.model(IMAGES))


def test_weights_of_hooks_are_copied_as_constants() -> None:
    """And what a module computed and kept for itself is named."""
    model = hooked("weight norm", passed=True)
    found: Any = copied(model)
    assert torch.equal(found[0].weight, model[0].weight)
    assert found[0].weight.is_leaf
    assert found[0].weight_g is not model[0].weight_g
    model.kept = model[0](IMAGES)
    with pytest.raises(ValueError, match="attribute kept is a tensor that was computed with gradients"):
        copied(model)


class Locked(nn.Module):
    """Keeps something that cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.lock = nn.Linear(4, 4), threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_module_that_cannot_be_copied_is_named() -> None:
    """Which module, and what to do; not where Python's copy failed."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), Locked()))
    with pytest.raises(ValueError, match=r"1\.1 \(Locked\) cannot be copied.*Take out"):
        snp.prune(model, [torch.randn(8, 4)], target_macs=0.5)


class FakeQuantised(nn.Linear):
    """Stands where torchao puts its layer for quantisation-aware training."""

    __module__ = "torchao.quantization.qat.linear"


def test_networks_prepared_for_quantisation_are_refused_by_name() -> None:
    """Prune first, then quantise."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), FakeQuantised(8, 2))
    with pytest.raises(ValueError, match=r"2 is a FakeQuantised.*Prune the plain network first"):
        snp.prune(model, [torch.randn(8, 4)], target_macs=0.5)


PARAMETRISED = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}


@pytest.mark.parametrize("name", PARAMETRISED)
def test_networks_with_norms_in_their_newer_form_are_pickled_once_pruned(name: str, tmp_path: Path) -> None:
    """Nothing of the norm is left in the small network; the dense one still reads files of the older form."""
    model = plain()
    for layer in (model[0], model[2], model[5]):
        PARAMETRISED[name](layer)
    model.eval()
    result = snp.prune(model, [IMAGES], target_units=0.5, preset="quick", progress=False)
    torch.save(result.model, tmp_path / "small.pt")
    back = torch.load(tmp_path / "small.pt", weights_only=False)
    with torch.no_grad():
        assert torch.equal(back(IMAGES), result.model(IMAGES))
    assert set(result.model.state_dict()) == set(plain().state_dict())
    if name == "weight norm":
        older = hooked(name, passed=False)
        model.load_state_dict(older.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(model(IMAGES), older(IMAGES))
