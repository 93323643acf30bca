"""Do moments of inputs and targets add up, and is the fit made from them the least-squares fit?"""

import pytest
import torch
from torch import Tensor

from snp.core.gram import CrossMoments
from snp.core.least_squares import MomentEquations
from snp.core.reconstruct import fold, transfer


def refit(weight: Tensor, moments: CrossMoments, ridge: float, *, affine: bool = True) -> tuple[Tensor, Tensor]:
    """Weights [O, K] and offset [O] that come closest to the targets, by the equations of the moments."""
    equations = MomentEquations(weight, moments, affine=affine)
    equations.factor(ridge)
    return equations.solution()


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(count: int = 200, columns: int = 6, seed: int = 0) -> Tensor:
    """Samples whose columns explain each other in part, with a mean, shape [N, K]."""
    return randn(count, columns, seed=seed) @ randn(columns, columns, seed=seed + 1) + randn(1, columns, seed=seed + 2)


def targets(rows: Tensor, seed: int = 5) -> Tensor:
    """Targets that the inputs explain in part, with a mean of their own, shape [N, 4]."""
    return rows @ randn(rows.shape[1], 4, seed=seed) + randn(len(rows), 4, seed=seed + 1) + 3.0


def assert_same(found: CrossMoments, wanted: CrossMoments) -> None:
    assert found.inputs.count == wanted.inputs.count
    for have, want in (
        (found.inputs.second, wanted.inputs.second),
        (found.inputs.first, wanted.inputs.first),
        (found.cross, wanted.cross),
        (found.target, wanted.target),
        (found.energy, wanted.energy),
    ):
        torch.testing.assert_close(have, want, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("pieces", [(1, 199), (50, 50, 100), (200, 0)])
def test_parts_add_up_to_the_whole(pieces: tuple[int, ...]) -> None:
    """Moments of parts of the samples, an empty part included, sum to the moments of all of them."""
    rows = inputs()
    wanted = targets(rows)
    total = CrossMoments.of(rows, wanted).zeros_like()
    for part, aim in zip(rows.split(pieces), wanted.split(pieces), strict=True):
        total = total + CrossMoments.of(part, aim)
    assert_same(total, CrossMoments.of(rows, wanted))


def test_every_sum_is_what_it_says() -> None:
    """Cross moments, sums and energies equal their definitions."""
    rows = inputs()
    wanted = targets(rows)
    found = CrossMoments.of(rows, wanted)
    torch.testing.assert_close(found.cross, wanted.T @ rows)
    torch.testing.assert_close(found.target, wanted.sum(0))
    torch.testing.assert_close(found.energy, wanted.square().sum(0))
    gram, cross = found.centred()
    torch.testing.assert_close(gram, (rows - rows.mean(0)).T @ (rows - rows.mean(0)))
    torch.testing.assert_close(cross, (wanted - wanted.mean(0)).T @ (rows - rows.mean(0)))


def test_inputs_that_are_not_numbers_are_refused() -> None:
    """NaN in the inputs is the user's network's fault and is said."""
    rows = inputs()
    rows[3, 2] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        CrossMoments.of(rows, targets(inputs()))


@pytest.mark.parametrize("affine", [True, False])
def test_refit_is_least_squares(affine: bool) -> None:
    """Without ridge the weights, and with an offset that too, equal torch's own least squares."""
    rows = inputs()
    wanted = targets(rows)
    weight, shift = refit(randn(4, 6, seed=9), CrossMoments.of(rows, wanted), 0.0, affine=affine)
    design = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], 1) if affine else rows
    best = torch.linalg.lstsq(design, wanted).solution.T
    torch.testing.assert_close(weight, best[:, :6], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(shift, best[:, 6] if affine else torch.zeros(4).double(), rtol=1e-8, atol=1e-8)


def test_ridge_minimises_its_penalised_error() -> None:
    """With ridge the weights solve the stacked problem whose penalty pulls to the dense weights."""
    rows, dense, ridge = inputs(), randn(4, 6, seed=9), 0.2
    wanted = targets(rows)
    strength = (ridge * rows.square().sum(0).mean()).sqrt()
    tall = torch.cat([rows, strength * torch.eye(6, dtype=torch.float64)])
    best = torch.linalg.lstsq(tall, torch.cat([wanted, strength * dense.T])).solution.T
    found, _ = refit(dense, CrossMoments.of(rows, wanted), ridge, affine=False)
    torch.testing.assert_close(found, best, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("affine", [True, False])
def test_large_ridge_leaves_the_dense_weights(affine: bool) -> None:
    """An infinite penalty is deletion; what the mean can still repair goes to the offset."""
    rows, dense = inputs(), randn(4, 6, seed=9)
    wanted = targets(rows)
    weight, shift = refit(dense, CrossMoments.of(rows, wanted), 1e13, affine=affine)
    torch.testing.assert_close(weight, dense, rtol=1e-9, atol=1e-9)
    mean = (wanted - rows @ dense.T).mean(0)
    torch.testing.assert_close(shift, mean if affine else torch.zeros_like(mean), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("ridge", [0.0, 1e-4, 0.3])
def test_refit_of_the_dense_outputs_is_the_fold(ridge: float) -> None:
    """With undisturbed inputs and the dense outputs as target, refit and transfer are one fit."""
    columns, weight, kept = inputs(columns=9), randn(4, 9, seed=9), torch.tensor([0, 2, 3, 7])
    wanted = fold(weight, transfer(columns.T @ columns, kept, ridge), kept)[:, kept]
    found, _ = refit(weight[:, kept], CrossMoments.of(columns[:, kept], columns @ weight.T), ridge, affine=False)
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kind", ["dead", "duplicate", "few samples", "all dead"])
def test_singular_inputs_leave_finite_weights_of_least_error(kind: str, affine: bool) -> None:
    """Dead, duplicate and dependent inputs neither blow the weights up nor cost accuracy without ridge."""
    rows = inputs(4 if kind == "few samples" else 200)
    if kind == "duplicate":
        rows[:, 1] = 2 * rows[:, 4]
    rows[:, {"dead": [2, 3], "all dead": list(range(6))}.get(kind, [])] = 0
    wanted = targets(inputs())[: len(rows)]
    weight, shift = refit(randn(4, 6, seed=9), CrossMoments.of(rows, wanted), 0.0, affine=affine)
    design = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], 1) if affine else rows
    best = design @ torch.linalg.lstsq(design, wanted, driver="gelsd").solution
    smallest = float((wanted - best).square().sum())
    assert float(weight.abs().max()) < 1e4
    assert float((wanted - rows @ weight.T - shift).square().sum()) <= smallest + 1e-8 * float(wanted.square().sum())


def test_negative_ridge_is_refused() -> None:
    """A ridge below 0 is the user's mistake."""
    rows = inputs()
    with pytest.raises(ValueError, match="ridge"):
        refit(randn(4, 6), CrossMoments.of(rows, targets(rows)), -1.0)
