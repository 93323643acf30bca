"""Does the downdated elimination do what refitting everything after every removal does?"""

import itertools

import pytest
import torch
from torch import Tensor

from snp.core.elimination import eliminate
from snp.core.statistics import ReaderStatistics
from snp.core.subspace import columns_of

Consumer = tuple[Tensor, Tensor, int]  # samples [N, U * b], weights [O, U * b], b


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def consumer(width: int, num_units: int = 7, seed: int = 0, outputs: int = 5) -> Consumer:
    """Samples whose columns explain each other in part, and weights."""
    size = num_units * width
    return (
        randn(150, size, seed=seed) @ (randn(size, size, seed=seed + 1) + 2 * torch.eye(size)),
        randn(outputs, size, seed=seed + 2),
        width,
    )


def found(consumers: list[Consumer]) -> tuple[list[int], Tensor]:
    order, error = eliminate([ReaderStatistics(samples.T @ samples, *rest) for samples, *rest in consumers])
    return order.tolist(), error


def error_with(consumers: list[Consumer], units: list[int]) -> float:
    """Squared error at all outputs when only some units are left and refitted by torch's own least squares."""
    total = 0.0
    for samples, weight, width in consumers:
        known = samples[:, columns_of(torch.tensor(sorted(units), dtype=torch.int64), width)]
        wanted = samples @ weight.T
        rest = wanted - known @ torch.linalg.lstsq(known, wanted, driver="gelsd").solution if units else wanted
        total += float(rest.square().sum())
    return total


def slow(consumers: list[Consumer]) -> tuple[list[int], list[float]]:
    """The same greedy search with every candidate refitted at every step."""
    left = list(range(consumers[0][0].shape[1] // consumers[0][2]))
    removed, errors = [], [0.0]
    while left:
        costs = {unit: error_with(consumers, [u for u in left if u != unit]) for unit in left}
        unit = min(costs, key=costs.__getitem__)
        left.remove(unit)
        removed.append(unit)
        errors.append(costs[unit])
    return removed[::-1], errors[::-1]


def downdated(consumers: list[Consumer]) -> tuple[list[int], list[float]]:
    """The same search with the whole inverse and all weights downdated after every removal, and nothing forgotten."""
    states = []
    for samples, weight, width in consumers:
        gram = samples.T @ samples
        eye = torch.eye(len(gram), dtype=torch.float64)
        states.append((torch.linalg.inv(gram + 1e-5 * gram.diagonal().mean() * eye), weight.T.clone(), width))
    left, removed, errors = list(range(consumers[0][0].shape[1] // consumers[0][2])), [], [0.0]
    while left:
        costs = dict.fromkeys(left, 0.0)
        for (inverse, weight, width), unit in itertools.product(states, left):
            own = slice(unit * width, (unit + 1) * width)
            costs[unit] += float((torch.linalg.solve(inverse[own, own], weight[own]) * weight[own]).sum())
        unit = min(costs, key=costs.__getitem__)
        for inverse, weight, width in states:
            own = slice(unit * width, (unit + 1) * width)
            gain = torch.linalg.solve(inverse[own, own], inverse[own])
            weight -= gain.T @ weight[own].clone()
            inverse -= inverse[:, own].clone() @ gain
        left.remove(unit)
        removed.append(unit)
        errors.append(errors[-1] + costs[unit])
    return removed[::-1], errors[::-1]


CASES = {
    "one reader": [consumer(1)],
    "one output": [consumer(1, outputs=1)],
    "blocks": [consumer(3, seed=4)],
    "two readers": [consumer(1), consumer(1, seed=9)],
    "readers of different widths": [consumer(1), consumer(4, seed=20), consumer(2, seed=30)],
}


@pytest.mark.parametrize("name", CASES)
def test_equals_refitting_every_candidate_at_every_step(name: str) -> None:
    """Order and errors are those of the slow search; the tiny ridge inside moves errors by less than 0.1 %."""
    order, error = found(CASES[name])
    slow_order, slow_error = slow(CASES[name])
    assert order == slow_order
    assert error.tolist() == pytest.approx(slow_error, rel=1e-3, abs=1e-3 * slow_error[0])


@pytest.mark.parametrize("sizes", [[(1, 60)], [(3, 40)], [(1, 30), (2, 30), (9, 30)]], ids=str)
@pytest.mark.parametrize("panel", [48, 7])
def test_waiting_downdates_change_nothing(
    sizes: list[tuple[int, int]], panel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over many panels and forgotten units, order and errors are those of downdating everything at every step."""
    monkeypatch.setattr("snp.core.downdating._PANEL", panel)
    consumers = [consumer(width, count, seed=5 + width) for width, count in sizes]
    order, error = found(consumers)
    wanted_order, wanted = downdated(consumers)
    assert order == wanted_order
    torch.testing.assert_close(error, torch.tensor(wanted, dtype=torch.float64), rtol=1e-7, atol=1e-9 * wanted[0])


@pytest.mark.parametrize("width", [1, 3])
def test_an_ill_conditioned_gram_matrix(width: int) -> None:
    """With a condition number of 1e12 the ridge rules: the order is still that of downdating at every step."""
    size = 30 * width
    samples = torch.linalg.qr(randn(200, size)).Q * torch.logspace(0, -6, size, dtype=torch.float64)
    rotated = samples @ torch.linalg.qr(randn(size, size, seed=1)).Q
    one = [(rotated, randn(5, size, seed=2), width)]
    order, error = found(one)
    wanted_order, wanted = downdated(one)
    assert order == wanted_order
    torch.testing.assert_close(error, torch.tensor(wanted, dtype=torch.float64), rtol=1e-6, atol=1e-9 * wanted[0])


@pytest.mark.parametrize("name", CASES)
def test_error_falls_from_everything_to_nothing(name: str) -> None:
    """With no unit left the error is the outputs' whole energy, with all of them it is zero, and never rises."""
    _, error = found(CASES[name])
    assert float(error[0]) == pytest.approx(error_with(CASES[name], []), rel=1e-3)
    assert float(error[-1]) == 0.0
    assert bool((error.diff() <= 0).all())


def test_dead_units_and_unread_units_go_first() -> None:
    """Units that are always zero, or that nobody reads, are the last in the order and cost next to nothing."""
    samples, weight, _ = consumer(1)
    samples[:, [1, 4]] = 0
    weight[:, 6] = 0
    # What nobody reads may still stand in for others, so it is only sure to be free while nothing has gone.
    order, error = found([(samples, weight, 1)])
    assert set(order[-2:]) <= {1, 4, 6}
    assert float(error[-3]) < 1e-4 * float(error[0])
    assert not {1, 4} & set(order[:4])


@pytest.mark.parametrize("width", [1, 2])
def test_redundant_units_cost_nothing(width: int) -> None:
    """Units that others explain exactly are removed before any error is made, and one of a pair of copies stays."""
    samples, weight, _ = consumer(width, num_units=6)
    blocks = samples.reshape(len(samples), 6, width)
    blocks[:, 3] = -2 * blocks[:, 0]
    blocks[:, 5] = blocks[:, 1] + blocks[:, 2]
    order, error = found([(blocks.reshape(len(samples), -1), weight, width)])
    assert float(error[4]) < 1e-3 * float(error[0])
    assert float(error[3]) > 1e-2 * float(error[0])
    assert len({0, 3} & set(order[:4])) == 1
    assert len({1, 2, 5} & set(order[:4])) == 2


@pytest.mark.parametrize("kind", ["fewer samples than units", "all dead", "one unit", "tiny", "huge"])
def test_degenerate_statistics_give_a_permutation_and_finite_errors(kind: str) -> None:
    """Nothing that a layer can feed breaks the search."""
    samples, weight, width = consumer(2, num_units=1 if kind == "one unit" else 7)
    samples = samples[:3] if kind == "fewer samples than units" else samples
    samples = samples * {"all dead": 0.0, "tiny": 1e-40, "huge": 1e40}.get(kind, 1.0)
    order, error = found([(samples, weight, width)])
    assert sorted(order) == list(range(len(order)))
    assert bool(torch.isfinite(error).all())


@pytest.mark.parametrize("width", [1, 2, 9])
def test_a_consumer_that_nobody_hears(width: int) -> None:
    """No output of it moves the network: nothing it loses is an error, and others decide as without it."""
    samples, weight, _ = consumer(width)
    order, error = found([(samples, weight[:0], width)])
    assert sorted(order) == list(range(samples.shape[1] // width))
    assert not bool(error.any())
    both, with_other = found([(samples, weight, width), (samples, weight[:0], width)])
    alone, error = found([(samples, weight, width)])
    assert both == alone
    torch.testing.assert_close(with_other, error)


def test_statistics_are_left_alone() -> None:
    """The Gram matrix and the weights given are not written to."""
    samples, weight, width = consumer(1)
    gram = samples.T @ samples
    before = gram.clone(), weight.clone()
    eliminate([ReaderStatistics(gram, weight, width)])
    assert torch.equal(gram, before[0])
    assert torch.equal(weight, before[1])
