"""Is a batch read as the model takes it, whatever form a data loader gives it?"""

from collections import OrderedDict, UserDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snp.graph.batches import Batch, device_of

ROWS, LABELS = torch.arange(12.0).reshape(6, 2), torch.arange(6)


class Sum(nn.Module):
    """Two inputs, of which the second counts double, and a switch: [N, 2] -> [N, 2]."""

    def forward(self, first: Tensor, second: Tensor | None = None, negate: bool = False) -> Tensor:
        total = first if second is None else first + 2 * second
        return -total if negate else total


FORMS: dict[str, tuple[Any, Tensor]] = {
    "tensor": (ROWS, ROWS),
    "inputs and labels": ((ROWS, LABELS), ROWS),
    "list of inputs and labels": ([ROWS, LABELS], ROWS),
    "inputs, labels and more": ((ROWS, LABELS, ["a"] * 6), ROWS),
    "several inputs and labels": (((ROWS, -ROWS), LABELS), -ROWS),
    "mapping": ({"first": ROWS}, ROWS),
    "mapping with labels": ({"labels": LABELS, "second": -ROWS, "first": ROWS}, -ROWS),
    "mapping of its own kind": (UserDict({"first": ROWS, "negate": True}), -ROWS),
    "ordered mapping and labels": ((OrderedDict(first=ROWS), LABELS), ROWS),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_reaches_the_right_arguments(form: str) -> None:
    """The model's output, the number of samples, and parsing once: a batch stays itself."""
    raw, wanted = FORMS[form]
    batch = Batch.of(raw)
    assert torch.equal(batch.call(Sum()), wanted)
    assert batch.size == 6
    assert Batch.of(batch) is batch


@pytest.mark.parametrize("raw", [3, "text", (), [], (3, LABELS), None, ([], LABELS)])
def test_what_is_no_batch_is_named(raw: Any) -> None:
    """The message says what was found and what goes."""
    with pytest.raises(ValueError, match=rf"mappings of keyword arguments; found {type(raw).__name__}"):
        Batch.of(raw)


def test_a_batch_without_tensors_has_no_size() -> None:
    """Switches alone are no samples."""
    with pytest.raises(ValueError, match="must hold a tensor; found negate"):
        _ = Batch.of({"negate": True}).size


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1, 2, 4, 6, 7])
def test_parts_put_together_are_the_whole(form: str, size: int) -> None:
    """Splitting and joining change nothing, nor does the order in which mappings name their entries."""
    batch = Batch.of(FORMS[form][0])
    parts = batch.split(size)
    assert [part.size for part in parts] == [min(size, 6 - start) for start in range(0, 6, size)]
    turned = [Batch(part.args, dict(reversed(part.kwargs.items()))) for part in parts[1:]]
    joined = Batch.joined([parts[0], *turned])
    assert torch.equal(joined.call(Sum()), batch.call(Sum()))
    assert list(joined.kwargs) == list(batch.kwargs)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 6, 15])
def test_first_and_repeated_samples(form: str, count: int) -> None:
    """The first samples are those of the model's output; repetition goes round in order."""
    batch, model = Batch.of(FORMS[form][0]), Sum()
    whole = batch.call(model)
    assert torch.equal(batch.first(count).call(model), whole[:count])
    assert torch.equal(batch.repeated(count).call(model), torch.cat([whole] * 3)[:count])


def test_nests_move_as_a_whole() -> None:
    """Tensors inside lists and tuples go along; what is no tensor stays."""
    batch = Batch.of({"images": [ROWS, (ROWS, 3)], "flag": True, "first": ROWS}).to("meta")
    images = batch.kwargs["images"]
    assert {tensor.device.type for tensor in (images[0], images[1][0], batch.kwargs["first"])} == {"meta"}
    assert images[1][1] == 3
    assert batch.kwargs["flag"] is True


def test_a_batch_goes_where_the_model_is() -> None:
    """A model without parameters is on the CPU."""
    assert Batch.of(ROWS).beside(nn.Linear(2, 2, device="meta")).args[0].device.type == "meta"
    assert device_of(nn.ReLU()) == torch.device("cpu")


class Cached(nn.Module):
    """As a language model: it keeps a cache unless its configuration or a keyword says that it does not."""

    def __init__(self, use_cache: bool = True) -> None:
        super().__init__()
        self.config = SimpleNamespace(use_cache=use_cache)

    def forward(self, rows: Tensor, use_cache: bool | None = None) -> Tensor:
        return rows


class PassesOn(nn.Module):
    """As a network of images and text around a language model, which names no keyword of that one's."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, rows: Tensor, **kwargs: Any) -> Tensor:
        return self.inner(rows, **kwargs)


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (Cached(), {"use_cache": False}),
        (PassesOn(PassesOn(Cached())), {"use_cache": False}),
        (Cached(use_cache=False), {}),
        (PassesOn(Cached(use_cache=False)), {}),
        (PassesOn(nn.Identity()), {}),  # it would refuse the keyword
        (nn.Sequential(Cached()), {}),  # the keyword would not get there
    ],
)
def test_caches_are_turned_off_where_a_keyword_reaches_them(model: nn.Module, given: dict[str, bool]) -> None:
    """In the network itself or inside it; what was asked for stays."""
    batch = Batch.of(ROWS).beside(model)
    assert batch.kwargs == given
    assert torch.equal(batch.call(model), ROWS)
    if given:
        assert Batch((ROWS,), {"use_cache": True}).beside(model).kwargs == {"use_cache": True}
