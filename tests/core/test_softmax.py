"""Is the last layer's fit the one minimum of the divergence of class probabilities?"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.functional import hessian, jacobian

from snp.core.softmax import Probabilities, behind_softmax
from snp.core.sums import ALONE
from tests.sums import DOUBLED

CLASSES, COLUMNS = 4, 3
RIDGE = 1e-2


def problem(count: int = 60, seed: int = 0) -> tuple[Probabilities, Tensor, Tensor]:
    """Inputs far from zero, of several scales; probabilities that no weights give exactly; where it starts."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    inputs = draw(count, COLUMNS) * torch.tensor([0.1, 1.0, 5.0]) + torch.tensor([3.0, -2.0, 40.0])
    logits = 2 * inputs[:, :1] * draw(1, CLASSES) + draw(count, CLASSES)
    return Probabilities.of(inputs, logits), 0.3 * draw(CLASSES, COLUMNS), draw(CLASSES)


def objective(packed: Tensor, samples: Probabilities, weight: Tensor, shift: Tensor, ridge: float) -> Tensor:
    """What is minimal, written out."""
    found, offset = packed[:, :-1], packed[:, -1]
    mean = samples.inputs.mean(0)
    energy = (samples.inputs - mean).square().mean()
    logits = samples.inputs @ found.T + offset
    wanted = samples.wanted.exp()
    divergence = (wanted * (samples.wanted - logits.log_softmax(1))).sum(1).mean()
    moved = (offset + found @ mean) - (shift + weight @ mean)
    return divergence + ridge * (energy * (found - weight).square().sum() + moved.square().sum())


def by_newton(samples: Probabilities, weight: Tensor, shift: Tensor, ridge: float) -> Tensor:
    """The minimum, by whole Hessian matrices and steps that are halved while they do not help."""
    at = torch.cat([weight, shift[:, None]], dim=1)
    value = lambda packed: objective(packed.reshape(CLASSES, -1), samples, weight, shift, ridge)  # noqa: E731
    flat = at.flatten()
    for _ in range(50):
        step = torch.linalg.solve(hessian(value, flat), jacobian(value, flat))
        while value(flat - step) > value(flat) and step.norm() > 1e-12:
            step = step / 2
        flat = flat - step
    return flat.reshape(CLASSES, -1)


@pytest.mark.parametrize("ridge", [1e-3, RIDGE, 1.0])
def test_it_is_the_minimum_that_newtons_method_finds(ridge: float) -> None:
    samples, weight, shift = problem()
    found = torch.cat([part.reshape(CLASSES, -1) for part in behind_softmax(samples, weight, shift, ridge, ALONE)], 1)
    best = by_newton(samples, weight, shift, ridge)
    values = [float(objective(each, samples, weight, shift, ridge)) for each in (found, best)]
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    logits = [samples.inputs @ each[:, :-1].T + each[:, -1] for each in (found, best)]
    torch.testing.assert_close(logits[0].softmax(1), logits[1].softmax(1), rtol=0, atol=2e-3)


def test_divergences_are_those_of_torch() -> None:
    samples, weight, shift = problem()
    logits = samples.inputs @ weight.T + shift
    wanted = torch.distributions.Categorical(logits=samples.wanted)
    found = torch.distributions.kl_divergence(wanted, torch.distributions.Categorical(logits=logits))
    torch.testing.assert_close(samples.divergences(weight, shift), found)


def test_what_is_right_stays() -> None:
    samples, weight, shift = problem()
    exact = Probabilities.of(samples.inputs, samples.inputs @ weight.T + shift)
    found, offset = behind_softmax(exact, weight, shift, 1e-4, ALONE)
    torch.testing.assert_close(found, weight)
    torch.testing.assert_close(offset, shift)


def test_a_large_ridge_holds_it_to_the_start() -> None:
    samples, weight, shift = problem()
    found, offset = behind_softmax(samples, weight, shift, 1e6, ALONE)
    torch.testing.assert_close(samples.inputs @ found.T + offset, samples.inputs @ weight.T + shift, rtol=0, atol=1e-5)


def test_samples_classes_scales_and_copies_of_the_data_do_not_matter() -> None:
    """Nor does a constant that is added to all logits of a sample, or the same data on two processes."""
    samples, weight, shift = problem()
    found, offset = behind_softmax(samples, weight, shift, RIDGE, ALONE)
    order, classes = torch.randperm(60), torch.randperm(CLASSES)
    usual = (samples.inputs @ found.T + offset).softmax(1)

    def alike(other: tuple[Tensor, Tensor], inputs: Tensor, wanted: Tensor) -> None:
        torch.testing.assert_close((inputs @ other[0].T + other[1]).softmax(1), wanted, rtol=0, atol=1e-4)

    alike(behind_softmax(samples[order], weight, shift, RIDGE, ALONE), samples.inputs, usual)
    permuted = Probabilities(samples.inputs, samples.wanted[:, classes])
    alike(behind_softmax(permuted, weight[classes], shift[classes], RIDGE, ALONE), samples.inputs, usual[:, classes])
    scaled = Probabilities(10 * samples.inputs, samples.wanted)
    alike(behind_softmax(scaled, weight / 10, shift, RIDGE, ALONE), scaled.inputs, usual)
    raised = Probabilities.of(samples.inputs, samples.wanted + torch.arange(60.0)[:, None])
    alike(behind_softmax(raised, weight, shift, RIDGE, ALONE), samples.inputs, usual)
    alike(behind_softmax(samples, weight, shift, RIDGE, DOUBLED), samples.inputs, usual)


def test_inputs_are_not_changed() -> None:
    samples, weight, shift = problem()
    before = [each.clone() for each in (samples.inputs, samples.wanted, weight, shift)]
    behind_softmax(samples, weight, shift, RIDGE, ALONE)
    assert all(map(torch.equal, before, (samples.inputs, samples.wanted, weight, shift)))
    assert F.softmax(samples.wanted, dim=1).sum() == pytest.approx(60)
