"""Does the factorisation on Gram matrices equal Gram-Schmidt on the data, for any rank?"""

import pytest
import torch
from torch import Tensor

from snp.core.subspace import columns_of, factorize, ldl


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def data(kind: str) -> Tensor:
    """Columns of units, shape [N, C]; sizes on both sides of the panel of 64."""
    sizes = {"one": (9, 1), "small": (40, 6), "panel": (200, 64), "over": (200, 65), "two panels": (300, 129)}
    if kind in sizes:
        return randn(*sizes[kind])
    if kind == "low rank":
        return randn(200, 10) @ randn(10, 80, seed=1)
    if kind == "more columns than samples":
        return randn(30, 100)
    if kind == "dead":
        return randn(100, 70) * (torch.arange(70) % 7 != 0)
    if kind == "all dead":
        return torch.zeros(50, 5, dtype=torch.float64)
    if kind == "duplicate":
        return randn(100, 40)[:, torch.arange(75) % 40]
    assert kind == "scales"
    return randn(200, 70) * 10.0 ** torch.linspace(-6, 6, 70, dtype=torch.float64)


KINDS = [
    *("one", "small", "panel", "over", "two panels", "low rank", "more columns than samples"),
    *("dead", "all dead", "duplicate", "scales"),
]


def gram_schmidt(columns_NC: Tensor) -> Tensor:
    """What of each column the earlier ones cannot explain, by projecting the data twice, shape [N, C]."""
    basis, rest = columns_NC.new_zeros(len(columns_NC), 0), []
    for column in columns_NC.T:
        left = column - basis @ (basis.T @ column)
        left = left - basis @ (basis.T @ left)
        rest.append(left)
        if float(left.norm()) > 1e-7 * float(column.norm()):
            basis = torch.cat([basis, (left / left.norm())[:, None]], dim=1)
    return torch.stack(rest, dim=1)


def gram_schmidt_block(columns_NC: Tensor, start: int, width: int) -> Tensor:
    """What the columns before ``start`` leave of the block behind them, all its columns projected alike."""
    if start == 0:
        return columns_NC[:, :width]
    left = gram_schmidt(columns_NC[:, :start])
    alive = left.norm(dim=0) > 1e-7 * columns_NC[:, :start].norm(dim=0)
    basis = left[:, alive] / left[:, alive].norm(dim=0)
    block = columns_NC[:, start : start + width]
    return block - basis @ (basis.T @ block)


@pytest.mark.parametrize("kind", KINDS)
def test_factors_rebuild_the_gram_matrix(kind: str) -> None:
    """L diag(D) L^T is the matrix again, L is unit lower triangular and D is not negative, for any rank."""
    columns = data(kind)
    gram = columns.T @ columns
    lower, pivots = ldl(gram)
    scale = gram.diagonal().clamp_min(1e-300).sqrt()
    difference = (lower * pivots) @ lower.T - gram
    assert float((difference / torch.outer(scale, scale)).abs().max()) < 1e-9
    assert torch.equal(lower.triu(), torch.eye(len(gram), dtype=torch.float64))
    assert bool((pivots >= 0).all())


@pytest.mark.parametrize("kind", KINDS)
def test_residuals_equal_gram_schmidt_on_the_data(kind: str) -> None:
    """The residual of a unit is the squared length of what projecting it on the earlier units leaves."""
    columns = data(kind)
    order = torch.randperm(columns.shape[1], generator=torch.Generator().manual_seed(3))
    found = factorize(columns.T @ columns, order).residual
    wanted = gram_schmidt(columns[:, order]).square().sum(dim=0)
    energy = columns[:, order].square().sum(dim=0)
    assert float(((found - wanted).abs() / energy.clamp_min(1e-300)).max()) < 1e-9


@pytest.mark.parametrize("kind", ["small", "over", "scales"])
def test_inverse_factor_makes_orthogonal_rows(kind: str) -> None:
    """L^-1 P X has orthogonal rows of energy D: the statement of the method."""
    columns = data(kind)
    order = torch.arange(columns.shape[1]).flip(0)
    subspace = factorize(columns.T @ columns, order)
    rows = torch.linalg.solve_triangular(subspace.unit_lower, columns[:, order].T, upper=False, unitriangular=True)
    lengths = subspace.pivots.sqrt()
    cosines = (rows @ rows.T) / torch.outer(lengths, lengths)
    torch.testing.assert_close(cosines, torch.eye(len(order), dtype=torch.float64), rtol=0, atol=1e-8)


@pytest.mark.parametrize("width", [2, 3, 49])
@pytest.mark.parametrize("case", ["full", "dead", "duplicate", "low rank"])
def test_block_residual_is_the_trace_of_the_projected_block(width: int, case: str) -> None:
    """A unit of several columns leaves what projecting all its columns on all earlier units' columns leaves."""
    num_units = 5
    columns = randn(400, num_units * width)
    if case == "dead":
        columns[:, 2 * width : 3 * width] = 0
    if case == "duplicate":
        columns[:, 3 * width : 4 * width] = columns[:, width : 2 * width].flip(1)
    if case == "low rank":
        columns = columns[:, : width + 1] @ randn(width + 1, num_units * width, seed=4)
    order = torch.tensor([3, 1, 4, 0, 2])
    found = factorize(columns.T @ columns, order, width).residual
    ordered = columns[:, columns_of(order, width)]
    for position in range(num_units):
        left = gram_schmidt_block(ordered, position * width, width).square().sum()
        assert abs(float(found[position] - left)) < 1e-9 * float(columns.square().sum()), position


def test_columns_of_units_are_neighbours() -> None:
    """Unit u of width b owns columns u b to u b + b - 1, in the order of units given."""
    assert columns_of(torch.tensor([2, 0]), 3).tolist() == [6, 7, 8, 0, 1, 2]


def test_kept_variance_rises_to_one_and_stands_at_one_without_energy() -> None:
    """The cumulative share is monotone, ends at 1 and is 1 from the start where there is nothing to hold."""
    columns = data("dead")
    share = factorize(columns.T @ columns, torch.arange(70)).kept_variance()
    assert bool((share.diff() >= 0).all())
    assert float(share[-1]) == pytest.approx(1.0)
    assert torch.equal(factorize(torch.zeros(3, 3), torch.arange(3)).kept_variance(), torch.ones(3).double())


def test_scaling_a_unit_scales_only_its_own_residual() -> None:
    """Residuals follow the square of a unit's own scale; the others do not move."""
    columns = data("small")
    scales = torch.tensor([1.0, 7.0, 1e-3, 1.0, 50.0, 1.0]).double()
    plain = factorize(columns.T @ columns, torch.arange(6)).residual
    scaled = factorize((columns * scales).T @ (columns * scales), torch.arange(6)).residual
    torch.testing.assert_close(scaled, plain * scales.square(), rtol=1e-10, atol=0)
