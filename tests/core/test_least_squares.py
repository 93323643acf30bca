"""Are both forms of the least-squares problem torch's own least squares, factorised once, whatever the matrix?"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from snp.core.dual_least_squares import SampleEquations
from snp.core.factor import factor
from snp.core.gram import CrossMoments
from snp.core.least_squares import MomentEquations, best_of

KINDS = ("plain", "wide", "dead", "all dead", "duplicate", "one sample", "ill-conditioned")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def data(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs [N, K], targets [N, O] and dense weights [O, K]; every column has a mean."""
    count, columns = {"wide": (12, 30), "one sample": (1, 8)}.get(kind, (60, 8))
    inputs = randn(count, columns) @ randn(columns, columns, seed=1) + randn(1, columns, seed=2)
    if kind == "ill-conditioned":  # the Gram matrix's condition number is 1e12
        inputs = randn(count, columns) @ torch.linalg.qr(randn(columns, columns, seed=1)).Q
        inputs = inputs * torch.logspace(0, -6, columns, dtype=torch.float64)
    if kind == "duplicate":
        inputs[:, 3] = -2 * inputs[:, 5]
    inputs[:, {"dead": [1, 4], "all dead": list(range(columns))}.get(kind, [])] = 0
    targets = inputs @ randn(columns, 3, seed=3) + randn(count, 3, seed=4) + 2.0
    return inputs, targets, randn(3, columns, seed=5)


def reference(inputs: Tensor, targets: Tensor, dense: Tensor, ridge: float, affine: bool) -> tuple[Tensor, Tensor]:
    """The penalised problem as one tall least-squares problem, by singular values."""
    mean, aim = (part.mean(0) * affine for part in (inputs, targets))
    centred = inputs - mean
    strength = (ridge * centred.square().sum(0).mean()).sqrt()
    tall = torch.cat([centred, strength * torch.eye(inputs.shape[1], dtype=torch.float64)])
    wanted = torch.cat([targets - aim - centred @ dense.T, torch.zeros(inputs.shape[1], 3, dtype=torch.float64)])
    weight = dense + torch.linalg.lstsq(tall, wanted, driver="gelsd").solution.T
    return weight, (aim - weight @ mean) * affine


def both(kind: str, affine: bool) -> dict[str, MomentEquations | SampleEquations]:
    inputs, targets, dense = data(kind)
    return {
        "moments": MomentEquations(dense, CrossMoments.of(inputs, targets), affine=affine),
        "samples": SampleEquations(dense, inputs, targets, affine=affine),
    }


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["moments", "samples"])
def test_solution_is_the_penalised_least_squares_fit(form: str, kind: str, affine: bool) -> None:
    """Weights and offset for every ridge of one set of equations, in any order, equal the reference."""
    equations = both(kind, affine)[form]
    for ridge in (0.2, 1e-4, 0.2):
        equations.factor(ridge)
        found, wanted = equations.solution(), reference(*data(kind), ridge, affine)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["moments", "samples"])
def test_without_ridge_the_error_is_the_smallest(form: str, kind: str, affine: bool) -> None:
    """Singular or not: finite weights, and no linear map errs less on the samples."""
    inputs, targets, dense = data(kind)
    equations = both(kind, affine)[form]
    equations.factor(0.0)
    weight, shift = equations.solution()
    best, offset = reference(inputs, targets, dense, 0.0, affine)
    error, smallest = ((targets - inputs @ w.T - d).square().sum() for w, d in ((weight, shift), (best, offset)))
    assert bool(torch.isfinite(weight).all())
    assert float(error) <= float(smallest) + 1e-7 * float(targets.square().sum())


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_moved_targets_need_no_new_factorisation(kind: str, affine: bool) -> None:
    """Solving for moved targets equals a fit to them from the start, in both forms."""
    inputs, targets, dense = data(kind)
    moved = randn(*targets.shape, seed=8) + 1.0
    wanted = reference(inputs, targets + moved, dense, 0.01, affine)
    moments, samples = both(kind, affine).values()
    assert isinstance(moments, MomentEquations)
    assert isinstance(samples, SampleEquations)
    moments.factor(0.01)
    samples.factor(0.01)
    torch.testing.assert_close(moments.solution(moved.T @ inputs, moved.sum(0)), wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(samples.solution(moved), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "one sample"])
def test_errors_on_held_back_samples(kind: str, affine: bool) -> None:
    """What either form says of held-back samples is what the reference, fitted on the others, errs there."""
    inputs, targets, dense = data(kind)
    is_held = torch.arange(len(inputs)) % 4 == 1
    ridges = (1e-3, 0.1)
    wanted = []
    for ridge in ridges:
        weight, shift = reference(inputs[~is_held], targets[~is_held], dense, ridge, affine)
        wanted.append((targets[is_held] - inputs[is_held] @ weight.T - shift).square().sum())
    fitted, held = (CrossMoments.of(inputs[part], targets[part]) for part in (~is_held, is_held))
    by_moments = MomentEquations(dense, fitted, affine=affine).held_back_errors(held, ridges)
    by_samples = SampleEquations(dense, inputs, targets, affine=affine).held_back_errors(is_held, ridges)
    torch.testing.assert_close(list(by_moments), wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(list(by_samples), wanted, rtol=1e-6, atol=1e-6)


def test_without_held_back_samples_the_fitted_ones_are_asked() -> None:
    """All samples are both then: the smallest ridge errs least on them."""
    inputs, targets, dense = data("wide")
    ridges = (1e-3, 0.1, 1.0)
    errors = SampleEquations(dense, inputs, targets, affine=True).held_back_errors(torch.zeros(12) > 0, ridges)
    assert best_of(errors, ridges)[0] == 1e-3


@pytest.mark.parametrize(
    ("errors", "best", "num_asked"),
    [((3.0, 2.0, 1.0), 2, 3), ((2.0, 1.0, 1.5, 0.5), 1, 3), ((1.0, 2.0, 0.0), 0, 2), ((1.0, 1.0, 0.5), 2, 3)],
    ids=["falls", "falls and rises", "rises", "equal first"],
)
def test_no_error_is_asked_for_behind_the_first_rise(errors: tuple[float, ...], best: int, num_asked: int) -> None:
    """The candidate in front of it is taken, and of equal ones the first."""
    asked = []

    def found() -> Iterator[Tensor]:
        for error in errors:
            asked.append(error)
            yield torch.tensor(error)

    assert best_of(found(), range(len(errors))) == (best, torch.tensor(errors[best]))
    assert len(asked) == num_asked


@pytest.mark.parametrize("size", [1, 7, 40])
def test_factor_solves_many_right_hand_sides(size: int) -> None:
    """One factorisation of a matrix, in which nothing is changed, gives torch's own solutions."""
    samples = randn(2 * size, size)
    gram = samples.T @ samples
    before, found = gram.clone(), factor(gram, 0.5)
    for seed in (1, 2):
        right = randn(size, 3, seed=seed)
        wanted = torch.linalg.solve(gram + 0.5 * torch.eye(size, dtype=torch.float64), right)
        torch.testing.assert_close(found.solve(right), wanted, rtol=1e-10, atol=1e-10)
    assert torch.equal(gram, before)


@pytest.mark.parametrize("form", ["moments", "samples"])
def test_negative_ridge_is_refused(form: str) -> None:
    """A ridge below 0 is the user's mistake."""
    with pytest.raises(ValueError, match="ridge must be at least 0, found -1"):
        both("plain", True)[form].factor(-1.0)


def test_inputs_that_are_not_numbers_are_refused() -> None:
    """NaN among the samples is the user's network's fault and is said."""
    inputs, targets, dense = data("wide")
    inputs[3, 2] = torch.inf
    with pytest.raises(ValueError, match="NaN or infinite"):
        SampleEquations(dense, inputs, targets, affine=True)
