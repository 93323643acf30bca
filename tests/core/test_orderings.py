"""Does every ordering keep its contract, and do the scored ones equal their formulas?"""

import pytest
import torch
from torch import Tensor

from snp.core import orderings
from snp.core.orderings import GroupStatistics, ReaderStatistics

# Orderings that look at the activations; the others may keep a dead unit.
SEES_DATA = [name for name in orderings.names() if name not in ("random", "saw")]
DETERMINISTIC = [name for name in orderings.names() if name != "random"]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixed(num_columns: int, seed: int = 0, count: int = 400) -> Tensor:
    """Correlated samples with columns of different energy, shape [N, C]."""
    mixing = torch.eye(num_columns).double() + 0.3 * randn(num_columns, num_columns, seed=seed + 1)
    return randn(count, num_columns, seed=seed) @ mixing * (1 + torch.arange(num_columns) / num_columns)


def statistics(columns: Tensor, width: int = 1, seed: int = 0, outgoing: Tensor | None = None) -> GroupStatistics:
    weights = randn(9, columns.shape[1], seed=50) if outgoing is None else outgoing
    gram = columns.T @ columns
    readers = (ReaderStatistics(gram, weights, width),)
    return GroupStatistics(gram, weights, width, torch.Generator().manual_seed(seed), readers)


def order(name: str, given: GroupStatistics) -> list[int]:
    return orderings.load(name)(given).tolist()


def test_names_are_the_files_of_the_folder() -> None:
    """The orderings that the documentation promises are there."""
    assert {"output", "pivoted", "random", "residual", "saw", "variance", "zca"} <= set(orderings.names())


def test_unknown_name_lists_the_known_ones() -> None:
    """A wrong name is answered with all right ones."""
    with pytest.raises(ValueError, match=r"zca.*found 'zcaa'"):
        orderings.load("zcaa")


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("name", orderings.names())
@pytest.mark.parametrize("case", ["full rank", "low rank", "few samples", "dead", "all dead", "duplicate", "one unit"])
def test_result_is_a_permutation(name: str, width: int, case: str) -> None:
    """Whatever the rank, every unit stands in the order exactly once."""
    num_units = 1 if case == "one unit" else 10
    columns = mixed(num_units * width)
    if case == "low rank":
        columns = columns[:, :3] @ randn(3, num_units * width)
    elif case == "few samples":
        columns = columns[:2]
    elif case == "dead":
        columns[:, : 4 * width] = 0
    elif case == "all dead":
        columns = columns * 0
    elif case == "duplicate":
        columns = columns[:, torch.arange(num_units * width) % (3 * width)]
    found = orderings.load(name)(statistics(columns, width))
    assert found.dtype == torch.int64
    assert sorted(found.tolist()) == list(range(num_units))


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_relabelling_units_relabels_the_order(name: str, width: int) -> None:
    """The order follows the units, not their places."""
    columns, weights = mixed(10 * width), randn(9, 10 * width, seed=50)
    places = torch.randperm(10, generator=torch.Generator().manual_seed(4))
    moved = (places[:, None] * width + torch.arange(width)).reshape(-1)
    plain = order(name, statistics(columns, width, outgoing=weights))
    relabelled = order(name, statistics(columns[:, moved], width, outgoing=weights[:, moved]))
    assert [int(places[unit]) for unit in relabelled] == plain


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e6, 1e14])
@pytest.mark.parametrize("name", orderings.names())
def test_unit_of_the_activations_does_not_count(name: str, scale: float, width: int) -> None:
    """Scaling all activations and all weights leaves the order as it is."""
    columns, weights = mixed(10 * width), randn(9, 10 * width, seed=50)
    scaled = statistics(columns * scale, width, outgoing=weights * scale)
    assert order(name, scaled) == order(name, statistics(columns, width, outgoing=weights))


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("name", SEES_DATA)
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_dead_units_come_last(name: str, width: int, scale: float) -> None:
    """Units without activity are the first to go."""
    columns = mixed(10 * width) * scale
    dead = [1, 4, 8]
    for unit in dead:
        columns[:, unit * width : (unit + 1) * width] = 0
    assert set(order(name, statistics(columns, width))[-3:]) == set(dead)


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("name", [name for name in orderings.names() if name not in orderings.BLIND])
def test_of_equal_units_one_goes_before_all_others_and_no_two_go_together(name: str, width: int) -> None:
    """Every cut up to the number of copies takes copies only, and leaves one of each; the rest is ordered as alone."""
    columns = mixed(9 * width)
    for first, second in ((2, 5), (0, 7)):
        columns[:, second * width : (second + 1) * width] = columns[:, first * width : (first + 1) * width]
    found = order(name, statistics(columns, width))
    pairs = {2: 2, 5: 2, 0: 0, 7: 0}
    assert sorted(pairs.get(unit, -1) for unit in found[-2:]) == [0, 2]
    if name != "output":  # the weights of a copy count for the one that stays
        left = sorted(found[:-2])
        alone = torch.cat([columns[:, unit * width : (unit + 1) * width] for unit in left], dim=1)
        assert [left[unit] for unit in order(name, statistics(alone, width))] == found[:-2]


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("name", ["zca", "residual"])
def test_a_sum_of_units_is_needed_once_one_of_them_is_gone(name: str, width: int) -> None:
    """Of three units of which each is a combination of the others one goes, and dead ones go before it."""
    columns = mixed(8 * width)
    columns[:, 7 * width :] = columns[:, :width] + 2 * columns[:, width : 2 * width]
    columns[:, 4 * width : 5 * width] = 0.0
    found = order(name, statistics(columns, width))
    assert found[-1] == 4
    assert found[-2] in (0, 1, 7)
    assert len({0, 1, 7} & set(found[:-2])) == 2


@pytest.mark.parametrize("name", ["zca", "residual"])
def test_without_dependent_units_the_score_is_the_order(name: str) -> None:
    """What the paper orders by is changed for redundant units only."""
    for seed in range(5):
        given = statistics(mixed(12, seed=seed))
        assert order(name, given) == order(f"{name}_once", given)


@pytest.mark.parametrize("name", ["zca_once", "residual_once"])
def test_scored_once_both_of_two_equal_units_go(name: str) -> None:
    """Why that is not the default."""
    columns = mixed(6)
    columns[:, 5] = columns[:, 2]
    assert set(order(name, statistics(columns))[-2:]) == {2, 5}


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("name", ["pivoted", "variance"])
def test_first_unit_has_the_largest_energy(name: str, width: int) -> None:
    """Both begin with the unit of the largest trace."""
    columns = mixed(8 * width)
    energy = columns.square().sum(dim=0).reshape(8, width).sum(dim=1)
    assert order(name, statistics(columns, width))[0] == int(energy.argmax())


def by_score(score: Tensor) -> list[int]:
    return score.argsort(descending=True).tolist()


@pytest.mark.parametrize("width", [1, 3])
def test_residual_is_what_leaving_a_unit_out_leaves(width: int) -> None:
    """The score equals the squared error of predicting a unit's columns from all the other units' columns."""
    columns = mixed(8 * width)
    left = []
    for unit in range(8):
        own = torch.zeros(8 * width, dtype=torch.bool)
        own[unit * width : (unit + 1) * width] = True
        fit = torch.linalg.lstsq(columns[:, ~own], columns[:, own]).solution
        left.append((columns[:, own] - columns[:, ~own] @ fit).square().sum())
    assert order("residual", statistics(columns, width)) == by_score(torch.stack(left))


@pytest.mark.parametrize("width", [1, 3])
def test_zca_is_the_energy_left_by_the_symmetric_orthogonaliser(width: int) -> None:
    """The score equals tr [(C^-1/2)_bb]^-2 with the inverse root from a singular value decomposition of the data."""
    columns = mixed(8 * width)
    _, values, right = torch.linalg.svd(columns, full_matrices=False)
    inverse_root = right.T @ torch.diag(1 / values) @ right
    blocks = [inverse_root[u * width : (u + 1) * width, u * width : (u + 1) * width] for u in range(8)]
    score = torch.stack([torch.linalg.inv(block @ block).trace() for block in blocks])
    assert order("zca", statistics(columns, width)) == by_score(score)
    if width == 1:
        # Rescaled to a unit diagonal, the orthogonaliser leaves rows of exactly these energies.
        orthogonal = columns @ inverse_root / inverse_root.diagonal()
        torch.testing.assert_close(orthogonal.T @ orthogonal, torch.diag(score), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("width", [1, 3])
def test_pivoted_takes_the_largest_remainder_at_every_step(width: int) -> None:
    """Every next unit is the one of which the chosen ones explain least, by projecting the data."""
    columns = mixed(7 * width)
    chosen: list[int] = []
    for unit in order("pivoted", statistics(columns, width)):
        known = torch.cat([columns[:, u * width : (u + 1) * width] for u in chosen], dim=1) if chosen else None
        rest = columns if known is None else columns - known @ torch.linalg.lstsq(known, columns).solution
        energy = rest.square().sum(dim=0).reshape(7, width).sum(dim=1)
        energy[chosen] = -1
        assert unit == int(energy.argmax())
        chosen.append(unit)


def test_saw_sums_absolute_outgoing_weights_and_nothing_else() -> None:
    """The order by outgoing weight, signs and activations aside."""
    weights = randn(9, 12, seed=50)
    wanted = by_score(weights.abs().sum(dim=0).reshape(4, 3).sum(dim=1))
    assert order("saw", statistics(mixed(12), 3, outgoing=weights)) == wanted
    assert order("saw", statistics(mixed(12, seed=9), 3, outgoing=-weights)) == wanted


@pytest.mark.parametrize("width", [1, 3])
def test_output_removes_what_refitted_outputs_miss_least(width: int) -> None:
    """At every step the unit goes whose loss, all others refitted to the readers' outputs, costs least."""
    columns, weights = mixed(6 * width), randn(9, 6 * width, seed=50)
    targets, left = columns @ weights.T, list(range(6))
    removed = []
    while left:
        errors = {}
        for unit in left:
            known = torch.cat(
                [columns[:, u * width : (u + 1) * width] for u in left if u != unit] or [columns[:, :0]], 1
            )
            fit = known @ torch.linalg.lstsq(known, targets).solution if known.shape[1] else torch.zeros_like(targets)
            errors[unit] = float((targets - fit).square().sum())
        removed.append(min(errors, key=errors.__getitem__))
        left.remove(removed[-1])
    assert order("output", statistics(columns, width, outgoing=weights)) == removed[::-1]


def test_random_repeats_with_its_generator_only() -> None:
    """The same seed gives the same order, another seed another one, the global seed counts for nothing."""
    columns = mixed(40)
    first = order("random", statistics(columns, seed=3))
    torch.manual_seed(123)
    assert order("random", statistics(columns, seed=3)) == first
    assert order("random", statistics(columns, seed=4)) != first
    assert order("random", statistics(mixed(40, seed=8), seed=3)) == first


@pytest.mark.parametrize("name", orderings.names())
def test_statistics_are_not_written_to(name: str) -> None:
    """An ordering reads."""
    given = statistics(mixed(8))
    gram, outgoing = given.gram.clone(), given.outgoing.clone()
    orderings.load(name)(given)
    assert torch.equal(given.gram, gram)
    assert torch.equal(given.outgoing, outgoing)
