"""Is the batch named that ends a calibration: by its number, its shapes and types, and the samples in it?"""

import re
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import snp
from snp.graph.batches import Batch
from snp.library import prune_streamed
from snp.measure.blame import Seen
from tests.networks import cnn, images

X = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
STREAMED = partial(prune_streamed, trials=False)


def flat() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 3))


def refusal(model: nn.Module, batches: Iterable[Tensor]) -> str:
    with pytest.raises(ValueError, match=r"batch|dense network") as raised:
        snp.prune(model, batches, target_macs=0.8, progress=False)
    return str(raised.value)


def test_a_later_batch_of_another_type_is_named() -> None:
    """Beside the first, whether it is among the first samples or far behind."""
    for first in (images(16), images(80)):
        said = refusal(cnn(), [first, images(8, seed=1), images(16, seed=2).double()])
        assert said.startswith("the model does not take batch 3 ([0][0] (16, 3, 8, 8) torch.float64): RuntimeError: ")
        assert said.endswith(f"; the first batch is [0][0] ({len(first)}, 3, 8, 8) torch.float32")


def test_a_later_batch_of_another_shape_is_named() -> None:
    """Also from a generator, where it cannot be looked at again."""
    said = refusal(flat(), (batch for batch in (X[:16], X[16:], torch.randn(4, 3, 10, 10))))
    assert re.match(
        r"the model does not take batch 3 \(\[0\]\[0\] \(4, 3, 10, 10\) torch.float32\): .*mat1 and mat2", said
    )
    assert said.endswith("; the first batch is [0][0] (16, 3, 8, 8) torch.float32")


def test_an_error_of_no_batch_stays_what_it_is() -> None:
    """Of the iterable itself."""

    def batches() -> Iterable[Tensor]:
        yield images(64)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match=r"^the disk is gone$"):
        snp.prune(cnn(), batches(), target_macs=0.8, progress=False)


def test_samples_that_hold_values_that_are_not_finite_are_named() -> None:
    """The weights are fine, and nobody is sent to look at them."""
    first, second = images(64), images(16, seed=1)
    second[[2, 9], 1, 2, 2] = torch.tensor([float("nan"), float("inf")])
    said = refusal(cnn(), [first, second])
    assert "inputs hold them: batch 2 at [0][0], samples 3, 10 of 16 (counted from 1): mend" in said
    assert "weights" not in said


class Waited(TorchDispatchMode):
    """Operators whose result has to come from the device before Python goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(word in str(func) for word in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal")):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def test_no_batch_is_waited_for() -> None:
    """Whether values are finite is asked on the device, and told behind an error only."""
    seen, second = Seen(), images(16, seed=1)
    second[4] = float("nan")
    with Waited() as waited:
        for batch in (images(16), second, torch.full((3, 3, 8, 8), float("inf"))):
            seen.noted(Batch((batch,), {"scale": torch.tensor(1.0)}))
    assert waited.found == []
    told = r"batch 2 at .*, sample 5 of 16; batch 3 at .*, samples 1, 2, 3 of 3 \(counted from 1\)"
    with pytest.raises(ValueError, match=told), seen.blamed(cnn()):
        raise ValueError("not finite")


@pytest.mark.parametrize("call", [snp.prune, STREAMED, lambda model, batches: snp.inspect(model, batches[0])])
def test_networks_and_batches_without_values_are_refused(call: object) -> None:
    """On the meta device there are shapes alone."""
    assert callable(call)
    with pytest.raises(ValueError, match=r"^stem\.weight of the model is on the meta device"):
        call(cnn().to("meta"), [images(4)])
    with pytest.raises(ValueError, match=r"^batch 1 at \[0\]\[0\] is on the meta device"):
        call(cnn(), [images(4).to("meta")])


def test_sparse_batches_are_refused() -> None:
    """The first and a later one, of any layout."""
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    rows = torch.randn(32, 8)
    assert refusal(model, [rows.to_sparse()]).startswith("batch 1 at [0][0] is a tensor of layout sparse_coo: ")
    assert refusal(model, [rows, rows.to_sparse()]).startswith("batch 2 at [0][0] is a tensor of layout sparse_coo: ")


def test_a_dense_network_without_finite_outputs_is_named_as_such() -> None:
    """By the layer where it begins, not as a network of which nothing can be cut."""
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4))
    model = nn.Sequential(*layers)
    assert isinstance(model[1].running_var, Tensor)
    model[1].running_var[2] = -1.0
    said = refusal(model, [X])
    assert "outputs of the dense network hold NaN or infinite values" in said
    assert "the first layer that gives such values is 1 (BatchNorm2d)" in said
    with pytest.raises(ValueError, match=r"1 \(BatchNorm2d\)"):
        snp.inspect(model, X)
