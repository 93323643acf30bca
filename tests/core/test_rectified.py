"""Does least squares on the rectifier's target lower what is lost behind the rectifier?"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from snp.core.rectified import rectified_target
from snp.core.sums import ALONE
from snp.fit.rectified import fitted_behind_rectifier
from snp.fit.regression import fitted, ridges_of
from snp.fit.rows import Rows
from tests.sums import DOUBLED

BOUNDS = {"relu": (0.0, math.inf), "relu6": (0.0, 6.0), "hardtanh": (-1.0, 1.0), "none": (-math.inf, math.inf)}


def problem(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs [N, K], targets [N, O] that they only partly explain, scale [O] and shift [O] up to the rectifier."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(500, 6, generator=generator)
    target = inputs @ torch.randn(6, 4, generator=generator) + 2 * torch.randn(500, 4, generator=generator)
    scale = torch.tensor([1.0, -2.0, 0.5, 0.0])
    return inputs, target, scale, torch.tensor([0.3, -1.0, 0.0, 1.0])


def errors(
    predicted: Tensor, target: Tensor, scale: Tensor, shift: Tensor, bounds: tuple[float, float]
) -> tuple[float, float]:
    """The convex loss, and the squared error behind the rectifier, both in units of the layer's output."""
    (low, high), used = bounds, scale != 0
    found, wanted = ((values * scale + shift)[:, used] for values in (predicted, target))
    aim = torch.where(wanted <= low, found.clamp_max(low), torch.where(wanted >= high, found.clamp_min(high), wanted))
    behind = found.clamp(low, high) - wanted.clamp(low, high)
    return float(((found - aim) / scale[used]).square().sum()), float((behind / scale[used]).square().sum())


@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
def test_every_round_lowers_the_loss(bounds: tuple[float, float]) -> None:
    """Twenty rounds by an independent solver: none goes up, and the error behind the rectifier ends below its start."""
    inputs, target, scale, shift = (values.double() for values in problem())
    predicted = inputs @ torch.linalg.lstsq(inputs, target).solution
    found = [errors(predicted, target, scale, shift, bounds)]
    for _ in range(20):
        wanted = rectified_target(target, predicted, target * scale + shift, scale, *bounds)
        predicted = inputs @ torch.linalg.lstsq(inputs, wanted).solution
        found.append(errors(predicted, target, scale, shift, bounds))
    assert all(loss >= behind - 1e-9 for loss, behind in found)
    assert all(later[0] <= earlier[0] * (1 + 1e-12) for earlier, later in itertools.pairwise(found))
    if bounds != BOUNDS["none"]:
        assert found[-1][0] < 0.99 * found[0][0]
        assert found[-1][1] < found[0][1]


def test_target_by_cases() -> None:
    """Beyond a bound: what is there now, or the bound; between them: the dense value."""
    target = torch.tensor([-2.0, -2.0, 3.0, 9.0, 9.0])[:, None]
    predicted = torch.tensor([-5.0, 1.0, -4.0, 12.0, 5.0])[:, None]
    found = rectified_target(target, predicted, target, torch.ones(1), 0.0, 6.0)
    assert found[:, 0].tolist() == [-5.0, 0.0, 3.0, 12.0, 6.0]


def test_switched_off_channels_keep_their_target() -> None:
    """Where the scale is zero nothing can be told from behind."""
    target, predicted = torch.randn(9, 2), torch.randn(9, 2)
    assert torch.equal(rectified_target(target, predicted, torch.zeros(9, 2), torch.zeros(2), 0.0, 6.0), target)


def rows_of(inputs: Tensor, target: Tensor, dense: Tensor, size: int) -> list[Rows]:
    parts = zip(inputs.split(size), target.split(size), dense.split(size), strict=True)
    return [Rows(*part, batch) for batch, part in enumerate(parts)]


@pytest.mark.parametrize("affine", [True, False])
def test_solver_follows_the_reference(affine: bool) -> None:
    """Four rounds over batches are four rounds of an independent solver, each with the targets of its part moved."""
    inputs, target, scale, shift = problem(1)
    dense = target * scale + shift
    batches = rows_of(inputs, target, dense, 62)
    start = fitted(torch.zeros(4, 6), batches, (0.0,), affine, ALONE)
    found = fitted_behind_rectifier(start, lambda part, parts: batches[part::parts], scale, (0.0, 6.0), ALONE)
    columns = torch.cat([inputs, torch.ones(500, 1)], dim=1).double() if affine else inputs.double()
    solution = torch.linalg.lstsq(columns, target.double()).solution
    for part in range(4):
        seen = torch.tensor([(row // 62) % 4 == part for row in range(500)])
        aim = rectified_target(target.double(), columns @ solution, dense.double(), scale.double(), 0.0, 6.0)
        moved = (aim - target.double())[seen] * 500 / seen.sum()
        solution = torch.linalg.solve(columns.T @ columns, columns.T @ target.double() + columns[seen].T @ moved)
    torch.testing.assert_close(found[0], solution[:6].T, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], solution[6] if affine else torch.zeros(4).double(), rtol=1e-4, atol=1e-4)


def test_parts_that_are_alike_do_what_all_rows_do() -> None:
    """Where every part of the batches holds the same rows, looking at one of them is looking at all."""
    inputs, target, scale, shift = problem(3)
    batches = [Rows(inputs, target, target * scale + shift, batch) for batch in range(4)]
    start = fitted(torch.zeros(4, 6), batches, (0.0,), True, ALONE)
    in_parts = fitted_behind_rectifier(start, lambda part, parts: batches[part::parts], scale, (0.0, 6.0), ALONE)
    at_once = fitted_behind_rectifier(start, lambda part, parts: batches, scale, (0.0, 6.0), ALONE)
    torch.testing.assert_close(in_parts, at_once, rtol=1e-6, atol=1e-6)


def test_processes_are_summed() -> None:
    """Two halves whose sums are added up give what one process with all rows gives."""
    inputs, target, scale, shift = problem(2)
    alone = [Rows(inputs, target, target * scale + shift)]
    start = fitted(torch.zeros(4, 6), alone, (0.0,), True, ALONE)
    once = fitted_behind_rectifier(start, lambda part, parts: alone, scale, (0.0, 6.0), ALONE)
    twice = fitted(torch.zeros(4, 6), alone, (0.0,), True, DOUBLED)
    again = fitted_behind_rectifier(twice, lambda part, parts: alone, scale, (0.0, 6.0), DOUBLED)
    torch.testing.assert_close(once, again, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("ridge", [1e-3, None])
def test_samples_and_moments_agree_behind_the_rectifier(affine: bool, ridge: float | None) -> None:
    """Fewer samples than columns are kept as samples in one process, as moments in several; the fit is the same."""
    generator = torch.Generator().manual_seed(5)
    inputs, target = torch.randn(48, 70, generator=generator), torch.randn(48, 4, generator=generator)
    scale = torch.tensor([1.0, -2.0, 0.5, 0.0])
    batches = rows_of(inputs, target, target * scale + 0.3, 8)
    found = []
    for sums in (ALONE, DOUBLED):
        ridges = ridges_of(ridge, of_tokens=False)
        problem_of_part = fitted(torch.randn(4, 70, generator=generator.manual_seed(6)), batches, ridges, affine, sums)
        assert (problem_of_part.starts is not None) == (sums is ALONE)
        parts = lambda part, parts: batches[part::parts]  # noqa: E731
        found.append(fitted_behind_rectifier(problem_of_part, parts, scale, (0.0, 6.0), sums))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
