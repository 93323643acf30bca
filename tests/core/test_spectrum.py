"""Is the decomposition at the price of the rank the same as the full one, and the order with it?"""

import pytest
import torch
from torch import Tensor

from snp.core.orderings import GroupStatistics, inverse_spectrum, zca_once
from snp.core.spectrum import low_rank_factor, spectrum

SIZE = 640


def gram(kind: str) -> Tensor:
    """Gram matrices that calibration gives: many samples or few, dead units, copies, energies far apart."""
    generator = torch.Generator().manual_seed(0)

    def samples(count: int, size: int = SIZE) -> Tensor:
        return torch.randn(count, size, generator=generator, dtype=torch.float64)

    if kind == "full rank":
        inputs = samples(2 * SIZE)
    elif kind == "few samples":
        inputs = samples(200)
    elif kind == "few samples after a ReLU":
        inputs = samples(250).relu()
    elif kind == "dead units":
        inputs = samples(2 * SIZE)
        inputs[:, ::2], inputs[:, 1::3] = 0.0, 0.0
    elif kind == "copies":
        inputs = samples(900, SIZE // 4).repeat(1, 4)
    elif kind == "few samples, energies far apart":
        inputs = samples(300) * torch.logspace(0, -4, SIZE, dtype=torch.float64)
    elif kind == "full rank, ill-conditioned":
        inputs = samples(2 * SIZE) @ (torch.eye(SIZE, dtype=torch.float64) + 0.9) * torch.logspace(0, -4, SIZE)
    else:
        inputs = torch.zeros(5, SIZE, dtype=torch.float64)
    return inputs.T @ inputs


KINDS = {
    "full rank": SIZE,
    "full rank, ill-conditioned": SIZE,
    "few samples": 200,
    "few samples after a ReLU": 250,
    "few samples, energies far apart": 300,
    "dead units": 213,
    "copies": SIZE // 4,
    "nothing": SIZE,
}


@pytest.mark.parametrize("kind", KINDS)
def test_decomposition_gives_the_matrix_back(kind: str) -> None:
    """As many values as the rank where that is low; orthonormal vectors; the values of eigh."""
    matrix = gram(kind)
    values, vectors = spectrum(matrix)
    assert len(values) == KINDS[kind]
    precision = float(values[-1]) * SIZE * torch.finfo(torch.float64).eps  # what float64 cannot tell from zero
    torch.testing.assert_close((vectors * values) @ vectors.T, matrix, rtol=0, atol=precision)
    eye = torch.eye(len(values), dtype=torch.float64)
    torch.testing.assert_close(vectors.T @ vectors, eye, rtol=0, atol=1e-7)
    torch.testing.assert_close(values, torch.linalg.eigvalsh(matrix)[-len(values) :], rtol=1e-9, atol=precision)


def by_eigh(matrix: Tensor, width: int, power: float) -> Tensor:
    """The slow way: all eigenvectors, floor and all."""
    values, vectors = torch.linalg.eigh(matrix)
    floor = values[-1].clamp_min(0) * len(values) * torch.finfo(torch.float64).eps
    powered = values.clamp_min(floor.clamp_min(torch.finfo(torch.float64).tiny)) ** power
    full = (vectors * powered) @ vectors.T
    blocks = full.reshape(SIZE // width, width, SIZE // width, width)
    return blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("power", [-0.5, -1.0])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "nothing"])
def test_powers_are_those_of_the_full_decomposition(kind: str, power: float, width: int) -> None:
    """Inverse and inverse root, blocks of several columns, directions without energy included."""
    matrix = gram(kind)
    statistics = GroupStatistics(matrix, torch.ones(1, SIZE), width, torch.Generator())
    wanted, found = by_eigh(matrix, width, power), inverse_spectrum(statistics, power)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6 * float(wanted.abs().max()))


@pytest.mark.parametrize("kind", ["full rank", "few samples", "few samples after a ReLU", "dead units"])
def test_order_is_that_of_the_full_decomposition(kind: str) -> None:
    """Unit by unit where scores can be told apart."""
    matrix = gram(kind)
    score = by_eigh(matrix, 1, -0.5).flatten().pow(-2)
    order = zca_once.order(GroupStatistics(matrix, torch.ones(1, SIZE), 1, torch.Generator()))
    falling = score[order]
    assert bool((falling[1:] <= falling[:-1] * (1 + 1e-6)).all())
    assert order.sort().values.equal(torch.arange(SIZE))


def test_too_high_a_rank_is_given_up() -> None:
    """One more than allowed is refused, the rank itself is not."""
    matrix = gram("few samples")
    assert low_rank_factor(matrix, 199) is None
    factor = low_rank_factor(matrix, 200)
    assert factor is not None
    torch.testing.assert_close(factor @ factor.T, matrix)
