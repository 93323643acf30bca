"""Are moments plain float64 sums, whatever the batches, the order and the dtype?"""

import pytest
import torch

from snp.core import gram as gram_module
from snp.core.gram import Moments, partial_trace, select_columns


def samples(generator: torch.Generator, count: int = 300, columns: int = 7) -> torch.Tensor:
    return torch.randn(count, columns, generator=generator, dtype=torch.float64) + 0.5


def assert_equal(found: Moments, wanted: Moments, relative: float = 1e-12) -> None:
    assert found.count == wanted.count
    torch.testing.assert_close(found.second, wanted.second, rtol=relative, atol=relative * float(wanted.second.max()))
    torch.testing.assert_close(found.first, wanted.first, rtol=relative, atol=relative * wanted.count)


def test_moments_are_the_sums_they_say(generator: torch.Generator) -> None:
    """Second, first and count equal sums written as loops over samples."""
    data = samples(generator, count=20)
    found = Moments.of(data)
    torch.testing.assert_close(found.second, sum(torch.outer(row, row) for row in data), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(found.first, sum(data), rtol=1e-13, atol=1e-13)
    assert found.count == 20
    assert found.second.dtype == found.first.dtype == torch.float64


@pytest.mark.parametrize("size", [1, 7, 64, 299])
def test_split_into_batches_changes_nothing(generator: torch.Generator, size: int) -> None:
    """The moments of parts add up to the moments of the whole."""
    data = samples(generator)
    total = Moments.zeros(data.shape[1])
    for part in data.split(size):
        total = total + Moments.of(part)
    assert_equal(total, Moments.of(data))


def test_conversion_by_chunks_changes_nothing(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than are converted at a time give the same sums."""
    data = samples(generator)
    whole = Moments.of(data)
    monkeypatch.setattr(gram_module, "_CHUNK_ROWS", 16)
    assert_equal(Moments.of(data), whole)


def test_order_of_samples_and_of_merging_changes_nothing(generator: torch.Generator) -> None:
    """Permuted samples and a + b against b + a give the same moments."""
    data = samples(generator)
    first, second = Moments.of(data[:100]), Moments.of(data[100:])
    assert_equal(second + first, first + second, relative=0.0)
    assert_equal(Moments.of(data[torch.randperm(len(data), generator=generator)]), Moments.of(data))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_inputs_are_summed_in_float64(generator: torch.Generator, dtype: torch.dtype) -> None:
    """The moments of narrow samples are those of the same numbers in float64: nothing is lost in the sums."""
    data = samples(generator).to(dtype)
    assert_equal(Moments.of(data), Moments.of(data.double()), relative=0.0)


def test_float32_products_stay_close(generator: torch.Generator) -> None:
    """The faster product precision moves no entry by more than 1e-5 of the largest."""
    data = samples(generator, count=3000)
    assert_equal(Moments.of(data, torch.float32), Moments.of(data), relative=1e-5)


def test_no_samples_are_the_neutral_element(generator: torch.Generator) -> None:
    """An empty matrix gives zeros, and adding it changes no bit."""
    empty = Moments.of(torch.empty(0, 7))
    assert empty.count == 0
    assert not empty.second.any()
    assert not empty.centred().any()
    assert not empty.mean().any()
    whole = Moments.of(samples(generator))
    assert_equal(whole + empty, whole, relative=0.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("product_dtype", [torch.float32, torch.float64])
def test_values_that_are_not_finite_are_refused(
    generator: torch.Generator, value: float, product_dtype: torch.dtype
) -> None:
    """One bad value anywhere is noticed."""
    data = samples(generator).float()
    data[137, 3] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        Moments.of(data, product_dtype)


def test_centred_gram_is_the_gram_of_centred_samples(generator: torch.Generator) -> None:
    """Subtracting the mean's part from the sums equals subtracting the mean from the samples."""
    data = samples(generator)
    middle = data - data.mean(dim=0)
    torch.testing.assert_close(Moments.of(data).centred(), middle.T @ middle, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(Moments.of(data).mean(), data.mean(dim=0))


def test_selected_columns_are_the_gram_of_those_columns(generator: torch.Generator) -> None:
    """Selecting from the Gram matrix equals selecting from the samples, order included."""
    data, columns = samples(generator), torch.tensor([5, 0, 3])
    torch.testing.assert_close(
        select_columns(Moments.of(data).second, columns), Moments.of(data[:, columns]).second, rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize("width", [1, 2, 5])
def test_partial_trace_equals_the_loop(generator: torch.Generator, width: int) -> None:
    """The Gram matrix of units is the sum over positions, as a loop and as more samples."""
    num_units = 4
    data = samples(generator, columns=num_units * width)
    gram = Moments.of(data).second
    wanted = torch.zeros(num_units, num_units, dtype=torch.float64)
    for u in range(num_units):
        for v in range(num_units):
            for p in range(width):
                wanted[u, v] += gram[u * width + p, v * width + p]
    found = partial_trace(gram, width)
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)
    positions_as_samples = data.reshape(-1, num_units, width).transpose(1, 2).reshape(-1, num_units)
    torch.testing.assert_close(found, Moments.of(positions_as_samples).second, rtol=1e-12, atol=1e-12)
