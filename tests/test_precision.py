"""Are networks of any precision pruned, and does what was set for a network, its modules and tensors stay set?"""

import contextlib
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snp
from snp.core.gram import Moments
from snp.measure.exact import exact_products
from snp.measure.moments import MomentCollector
from snp.measure.readers import Reader
from snp.pruning import PruneResult
from tests.networks import attention, cnn, images, language, tokens, words

OPTIONS: dict[str, Any] = {"target_macs": 0.68, "round_to": 1}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "cnn": (cnn, images),
    "transformer": (attention, tokens),
    "language": (language, words),
}
HALF = {torch.bfloat16: 2e-2, torch.float16: 2e-3}


def pruned(model: nn.Module, inputs: Tensor, **options: Any) -> PruneResult:
    return snp.prune(model, [inputs[:16], inputs[16:]], **{**OPTIONS, **options})


def distance(model: nn.Module, dense: nn.Module, inputs: Tensor) -> float:
    """Root of the mean squared difference of the outputs, relative to the dense network's spread."""
    with torch.no_grad():
        found, wanted = model.double()(inputs), dense.double()(inputs)
    return float((found - wanted).square().mean().sqrt() / wanted.std())


@pytest.mark.parametrize("options", [{}, {"calibration": "joint"}], ids=["default", "joint"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_other_precisions(name: str, dtype: torch.dtype, options: dict[str, Any]) -> None:
    """The small network has the types of the dense one, and is as good as in single precision but for rounding."""
    make, batches = NETWORKS[name]
    inputs, model = batches(), make().eval().to(dtype)
    given = inputs.to(dtype) if inputs.is_floating_point() else inputs
    found = pruned(model, given, **options)
    assert {tensor.dtype for tensor in found.model.parameters()} == {dtype}
    assert {tensor.dtype for tensor in model.parameters()} == {dtype}
    assert found.model(given[:2]).dtype == dtype
    single = pruned(
        copy.deepcopy(model).float(), given.to(torch.float32) if given.is_floating_point() else given, **options
    )
    exact = given.double() if given.is_floating_point() else given
    error, wanted = (distance(result.model, copy.deepcopy(model), exact) for result in (found, single))
    assert error <= 1.25 * wanted + HALF.get(dtype, 1e-6)


def test_half_precision_with_a_rectifier_and_equal_inputs() -> None:
    """The layers that are fitted behind a rectifier, in both half precisions."""
    torch.manual_seed(0)
    for dtype in HALF:
        model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5)).to(dtype)
        found = snp.prune(model.eval(), [torch.randn(64, 20, dtype=dtype)] * 4, target_units=0.5)
        assert all(bool(torch.isfinite(tensor).all()) for tensor in found.model.state_dict().values())


@pytest.mark.parametrize("options", [{}, {"reconstruct": "tuned", "tune_epochs": 1}], ids=["default", "tuned"])
def test_the_type_that_new_tensors_have_is_none_of_the_networks(options: dict[str, Any]) -> None:
    """A process that works in double precision prunes a network of single precision as any other."""
    given = images()
    wanted = pruned(cnn().eval(), given, **options)
    model = cnn().eval()
    torch.set_default_dtype(torch.float64)
    try:
        found = pruned(model, given, **options)
    finally:
        torch.set_default_dtype(torch.float32)
    assert [group.kept.tolist() for group in found.plan.groups] == [group.kept.tolist() for group in wanted.plan.groups]
    with torch.no_grad():
        torch.testing.assert_close(found.model(given), wanted.model(given), rtol=1e-3, atol=1e-4)


def test_modes_of_every_module_stay() -> None:
    """A normalisation that is kept in evaluation mode while the rest trains is in both networks afterwards."""
    model = cnn().train()
    model.norm.eval()
    found = pruned(model, images())
    for network in (model, found.model):
        assert {name for name, module in network.named_modules() if not module.training} == {"norm"}


def test_what_is_not_trained_stays_so() -> None:
    """Frozen tensors are frozen in the small network, and no others, wherever they are pruned."""
    model = cnn().eval()
    frozen = {"stem.weight", "wide.weight", "head.bias"}
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    with torch.no_grad():
        found = pruned(model, images())
    assert {name for name, tensor in found.model.named_parameters() if not tensor.requires_grad} == frozen


def test_memory_format_stays(tmp_path: Path) -> None:
    """Kernels with the channels last come back so, from a folder, too."""
    model = cnn().eval().to(memory_format=torch.channels_last)
    found = pruned(model, images().contiguous(memory_format=torch.channels_last))
    kernels = [tensor for tensor in found.model.parameters() if tensor.ndim == 4]
    assert kernels
    assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in kernels)
    snp.save(found, tmp_path)
    loaded = snp.load(tmp_path, model)
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in loaded.parameters() if t.ndim == 4)
    plain = pruned(cnn().eval(), images())
    assert all(tensor.is_contiguous() for tensor in plain.model.parameters())


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "parallel": nn.DataParallel,
    "compiled": lambda model: torch.compile(model, backend="eager"),  # type: ignore[return-value]
    "both": lambda model: torch.compile(nn.DataParallel(model), backend="eager"),  # type: ignore[return-value]
}


def same(found: PruneResult, wanted: PruneResult) -> None:
    """Units and weights to the bit."""
    assert type(found.model) is type(wanted.model)
    assert [group.kept.tolist() for group in found.plan.groups] == [group.kept.tolist() for group in wanted.plan.groups]
    assert found.model.state_dict().keys() == wanted.model.state_dict().keys()
    assert all(map(torch.equal, found.model.state_dict().values(), wanted.model.state_dict().values()))


@pytest.fixture(scope="module")
def plain() -> PruneResult:
    """The network pruned as it is."""
    return pruned(cnn().eval(), images())


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_are_taken_off(name: str, plain: PruneResult, tmp_path: Any) -> None:
    """The small network is the plain one of the network inside, and comes back from disk with the wrapped one."""
    wrapped = WRAPPERS[name](cnn().eval())
    found = pruned(wrapped, images())
    same(found, plain)
    snp.save(found, tmp_path)
    assert torch.equal(snp.load(tmp_path, wrapped)(images()), plain.model(images()))
    assert str(snp.inspect(wrapped, images())) == str(snp.inspect(cnn(), images()))


@pytest.mark.parametrize("name", ["around", "model and batches", "batches"])
def test_inference_mode(name: str, plain: PruneResult) -> None:
    """Pruning inside it, and networks and batches made inside it, give the very same as outside."""
    inside = torch.inference_mode
    with inside() if name != "batches" else contextlib.nullcontext():
        model = cnn().eval()
    with inside():
        inputs = images()
    with inside() if name == "around" else contextlib.nullcontext():
        found = pruned(model, inputs)
    same(found, plain)
    loss = found.model(images()).square().sum()
    loss.backward()  # an ordinary network, which can be trained


def test_autocast_around(plain: PruneResult) -> None:
    """Autocast around the call changes nothing: weights are fitted in the network's own precision."""
    with torch.autocast("cpu", torch.bfloat16):
        same(pruned(cnn().eval(), images()), plain)


def test_computed_attributes_are_named() -> None:
    """A network that keeps a tensor with its history cannot be copied, and hears which one."""
    model = cnn().eval()
    model.norm.seen = model.stem(images(2))
    with pytest.raises(ValueError, match=r"attribute norm\.seen is a tensor that was computed with gradients"):
        pruned(model, images())


@pytest.mark.parametrize("products", [torch.float64, torch.float32])
def test_moments_are_exact_under_autocast(products: torch.dtype, generator: torch.Generator) -> None:
    """What the layer really reads there is what is measured, without another rounding."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    inputs = torch.randn(64, 6, generator=generator)
    reader = {"2.weight": Reader("2.weight", "2", -1, 8)}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        read = model[1](model[0](inputs))
        with MomentCollector(model, reader, products) as collector:
            model(inputs)
        assert torch.is_autocast_enabled("cpu")
    assert read.dtype == torch.bfloat16
    wanted, found = Moments.of(read.double(), torch.float64), collector.moments["2.weight"]
    tolerance = 1e-12 if products == torch.float64 else 1e-6
    torch.testing.assert_close(found.second, wanted.second, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("setting", ["old", "new", "none"])
def test_tf32_is_off_while_sums_are_taken(setting: str) -> None:
    """And as it was afterwards, by whichever name it was set."""
    matmul: Any = torch.backends.cuda.matmul
    torch.set_float32_matmul_precision("highest")
    try:
        if setting == "old":
            torch.set_float32_matmul_precision("high")
        elif setting == "new":
            matmul.fp32_precision = "tf32"
        before = matmul.fp32_precision
        with exact_products():
            assert matmul.fp32_precision in ("ieee", "none")
        assert matmul.fp32_precision == before
    finally:
        matmul.fp32_precision = "ieee"
        torch.set_float32_matmul_precision("highest")
