"""Are folded weights the least-squares fit, and is the stated error the one that is made?"""

import pytest
import torch
from torch import Tensor

from snp.core.reconstruct import fold, output_error, reconstructed, transfer
from snp.core.subspace import columns_of, factorize


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(count: int = 300, columns: int = 12, seed: int = 0) -> Tensor:
    """Samples whose columns explain each other in part, with a mean, shape [N, C]."""
    return randn(count, columns, seed=seed) @ randn(columns, columns, seed=seed + 1) + randn(1, columns, seed=seed + 2)


KEPT = torch.tensor([0, 3, 4, 9])
CUT = torch.tensor([1, 2, 5, 6, 7, 8, 10, 11])


def test_transfer_is_the_least_squares_fit_of_the_data() -> None:
    """Without ridge, T equals torch's own least squares of all columns on the kept ones."""
    columns = correlated()
    wanted = torch.linalg.lstsq(columns[:, KEPT], columns).solution.T
    torch.testing.assert_close(transfer(columns.T @ columns, KEPT, ridge=0.0), wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("num_kept", [1, 5, 11, 12])
def test_transfer_is_the_formula_of_the_paper(num_kept: int) -> None:
    """W T equals W P^T L[:, :k] (L[:k, :k])^-1 for an order of keeping."""
    columns, weight = correlated(), randn(6, 12, seed=7)
    gram, order = columns.T @ columns, torch.randperm(12, generator=torch.Generator().manual_seed(2))
    lower = factorize(gram, order).unit_lower
    wanted = weight[:, order] @ lower[:, :num_kept] @ torch.linalg.inv(lower[:num_kept, :num_kept])
    found = weight @ transfer(gram, order[:num_kept], ridge=0.0)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


def test_ridge_minimises_its_penalised_error() -> None:
    """With ridge, W' equals the stacked least-squares problem that the module's docstring states."""
    columns, weight, ridge = correlated(), randn(6, 12, seed=7), 0.3
    gram = columns.T @ columns
    strength = (ridge * gram.diagonal()[KEPT].mean()).sqrt()
    tall = torch.cat([columns[:, KEPT], strength * torch.eye(4, dtype=torch.float64)])
    target = torch.cat([columns @ weight.T, strength * weight[:, KEPT].T])
    wanted = torch.linalg.lstsq(tall, target).solution.T
    torch.testing.assert_close(weight @ transfer(gram, KEPT, ridge), wanted, rtol=1e-8, atol=1e-8)


def test_large_ridge_decays_to_deletion() -> None:
    """An infinite penalty leaves the identity on kept rows and nothing on the others: never zero weights."""
    columns = correlated()
    found = transfer(columns.T @ columns, KEPT, ridge=1e12)
    torch.testing.assert_close(found[KEPT], torch.eye(4, dtype=torch.float64))
    assert float(found[CUT].abs().max()) < 1e-10


@pytest.mark.parametrize("ridge", [0.0, 1e-4, 1.0])
def test_kept_rows_are_the_identity_and_the_ends_are_exact(ridge: float) -> None:
    """Keeping everything changes no bit, keeping nothing gives no columns, kept columns stand for themselves."""
    gram = correlated().T @ correlated()
    assert torch.equal(transfer(gram, KEPT, ridge)[KEPT], torch.eye(4, dtype=torch.float64))
    assert torch.equal(transfer(gram, torch.arange(12), ridge), torch.eye(12, dtype=torch.float64))
    assert transfer(gram, torch.arange(0), ridge).shape == (12, 0)


@pytest.mark.parametrize("shape", [(2, 12), (20, 12), (2, 12, 3), (2, 3, 4)], ids=["few", "many", "taps", "patches"])
@pytest.mark.parametrize("num_kept", [0, 4, 12])
@pytest.mark.parametrize("is_singular", [False, True])
def test_folding_few_outputs_is_folding_all_columns(shape: tuple[int, ...], num_kept: int, is_singular: bool) -> None:
    """Solving for outputs gives what the transfer of all columns gives, of singular matrices too."""
    columns, weight = correlated(count=3 if is_singular else 300), randn(*shape, seed=7)
    gram, kept = columns.T @ columns, torch.randperm(12, generator=torch.Generator().manual_seed(2))[:num_kept]
    for ridge in (0.0, 0.1):
        wanted = fold(weight, transfer(gram, kept, ridge), kept)
        torch.testing.assert_close(reconstructed(weight, gram, kept, ridge), wanted, rtol=1e-8, atol=1e-8)


def test_negative_ridge_is_refused() -> None:
    """A ridge below 0 is the user's mistake."""
    with pytest.raises(ValueError, match="ridge"):
        transfer(torch.eye(3).double(), torch.tensor([0]), ridge=-1e-9)


def error_of(columns: Tensor, weight: Tensor, folded: Tensor) -> float:
    return float((columns @ (folded - weight).T).square().sum())


@pytest.mark.parametrize("ridge", [0.0, 1e-4, 1e-2])
@pytest.mark.parametrize("seed", range(5))
def test_fit_is_never_worse_than_deletion_in_sample(seed: int, ridge: float) -> None:
    """On the samples that were measured the fold beats setting columns to zero."""
    columns, weight = correlated(seed=10 * seed), randn(6, 12, seed=seed + 500)
    deleted = weight.clone()
    deleted[:, CUT] = 0
    folded = fold(weight, transfer(columns.T @ columns, KEPT, ridge), KEPT)
    assert error_of(columns, weight, folded) < error_of(columns, weight, deleted)


def singular(kind: str) -> Tensor:
    columns = correlated()
    if kind == "dead kept":
        columns[:, KEPT[1]] = 0
    elif kind == "dead cut":
        columns[:, CUT[:3]] = 0
    elif kind == "duplicate":
        columns[:, KEPT[2]] = columns[:, KEPT[1]]
        columns[:, CUT[0]] = -2 * columns[:, KEPT[1]]
    elif kind == "few samples":
        columns = columns[:3]
    elif kind == "all dead":
        columns = columns * 0
    return columns


@pytest.mark.parametrize("kind", ["dead kept", "dead cut", "duplicate", "few samples", "all dead"])
def test_singular_gram_without_ridge_fits_as_well_as_least_squares(kind: str) -> None:
    """Dead, duplicate and dependent columns leave finite weights with the smallest possible error."""
    columns, weight = singular(kind), randn(6, 12, seed=7)
    found = transfer(columns.T @ columns, KEPT, ridge=0.0)
    assert bool(torch.isfinite(found).all())
    assert float(found.abs().max()) < 1e4
    best = torch.linalg.lstsq(columns[:, KEPT], columns @ weight.T, driver="gelsd").solution.T
    smallest = float((columns @ weight.T - columns[:, KEPT] @ best.T).square().sum())
    total = float((columns @ weight.T).square().sum())
    assert error_of(columns, weight, fold(weight, found, KEPT)) <= smallest + 1e-9 * total


@pytest.mark.parametrize("scale", [1e-150, 1e-20, 1e20, 1e150])
@pytest.mark.parametrize("ridge", [0.0, 1e-4])
def test_transfer_does_not_depend_on_the_unit_of_the_activations(scale: float, ridge: float) -> None:
    """Scaling all activations leaves the fit as it is."""
    gram = correlated().T @ correlated()
    torch.testing.assert_close(transfer(gram * scale, KEPT, ridge), transfer(gram, KEPT, ridge), rtol=1e-6, atol=1e-8)


def test_fold_of_a_convolution_fits_every_tap_alike() -> None:
    """A kernel's taps share one transfer: the folded convolution reads rebuilt channels."""
    images, weight = randn(2, 12, 6, 6), randn(5, 12, 3, 3, seed=3)
    rows = images.movedim(1, -1).reshape(-1, 12)
    matrix = transfer(rows.T @ rows, KEPT, ridge=0.0)
    folded = fold(weight, matrix, KEPT)
    assert folded.shape == weight.shape
    assert not folded[:, CUT].any()
    rebuilt = torch.einsum("ck,nkhw->nchw", matrix, images[:, KEPT])
    wanted = torch.nn.functional.conv2d(rebuilt, weight)
    torch.testing.assert_close(torch.nn.functional.conv2d(images, folded), wanted, rtol=1e-9, atol=1e-9)


def test_fold_of_a_flattened_map_shares_positions() -> None:
    """A linear layer behind a flatten folds channels when the Gram matrix has one column per channel."""
    images, weight = randn(4, 12, 5, 5), randn(3, 12 * 25, seed=3)
    rows = images.movedim(1, -1).reshape(-1, 12)
    matrix = transfer(rows.T @ rows, KEPT)
    rebuilt = torch.einsum("ck,nkhw->nchw", matrix, images[:, KEPT]).flatten(1)
    torch.testing.assert_close(images.flatten(1) @ fold(weight, matrix, KEPT).T, rebuilt @ weight.T)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_fold_keeps_dtype_and_leaves_the_weight_alone(dtype: torch.dtype) -> None:
    """The fit is made in float64 and rounded once; the weight given is not written to."""
    weight = randn(6, 12).to(dtype)
    before = weight.clone()
    matrix = transfer(correlated().T @ correlated(), KEPT)
    folded = fold(weight, matrix, KEPT)
    assert folded.dtype == dtype
    assert torch.equal(weight, before)
    assert torch.equal(folded[:, KEPT], (weight.double() @ matrix).to(dtype))


@pytest.mark.parametrize("width", [1, 3])
def test_output_error_is_the_error_that_is_made(width: int) -> None:
    """For every k the closed form equals the squared error of refitting on the data, and it falls to 0."""
    num_units = 12 // width
    columns, weight = correlated(), randn(6, 12, seed=7)
    order = torch.randperm(num_units, generator=torch.Generator().manual_seed(5))
    found = output_error(weight, factorize(columns.T @ columns, order, width), width)
    assert found.shape == (num_units + 1,)
    for num_kept in range(num_units + 1):
        known = columns[:, columns_of(order[:num_kept], width)]
        outputs = columns @ weight.T
        rest = outputs - known @ torch.linalg.lstsq(known, outputs).solution if num_kept else outputs
        assert float(found[num_kept]) == pytest.approx(float(rest.square().sum()), rel=1e-8, abs=1e-8)
    assert bool((found.diff() <= 1e-9).all())
