"""Does one price for all groups do the least damage for what it costs?"""

import itertools

import pytest
import torch
from torch import Tensor

from snp.core.cuts import Curve
from snp.core.cuts.output import num_kept


def convex(num_units: int, seed: int, size: float) -> Tensor:
    """Damage that falls to 0 in ever smaller steps, shape [U + 1]."""
    steps = torch.rand(num_units, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).sort().values
    return torch.cat([torch.zeros(1), (steps * size).cumsum(0)]).flip(0).double()


def network(seed: int) -> list[Curve]:
    """Three groups of different sizes, costs and damages, as shares of the whole network's."""
    damages = [convex(count, 10 * seed + count, size) for count, size in ((3, 1.0), (5, 0.2), (6, 3.0))]
    costs = [0.3, 0.05, 0.1]
    whole = sum(float(damage[0]) for damage in damages)
    spent = sum(cost * (len(damage) - 1) for cost, damage in zip(costs, damages, strict=True))
    return [
        Curve(torch.linspace(0.1, 1, len(damage) - 1), damage / whole, cost / spent)
        for damage, cost in zip(damages, costs, strict=True)
    ]


def price(curves: list[Curve], kept: tuple[int, ...]) -> tuple[float, float]:
    """Cost and damage of a choice."""
    cost = sum(curve.unit_cost * count for curve, count in zip(curves, kept, strict=True))
    damage = sum(float(curve.damage[count]) for curve, count in zip(curves, kept, strict=True))
    return cost, damage


@pytest.mark.parametrize("level", [0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95])
@pytest.mark.parametrize("seed", range(4))
def test_no_other_choice_of_that_cost_does_less_damage(seed: int, level: float) -> None:
    """Of all combinations that cost no more, the cut's is the one of least damage."""
    curves = network(seed)
    cost, damage = price(curves, tuple(num_kept(curve, level) for curve in curves))
    every = itertools.product(*(range(1, len(curve.damage)) for curve in curves))
    best = min(found[1] for found in (price(curves, kept) for kept in every) if found[0] <= cost + 1e-12)
    assert damage == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_more_level_never_keeps_fewer(seed: int) -> None:
    """Every group's count rises with the level, from 1 to all units that do damage, whether or not it is convex."""
    rough = torch.rand(12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).sort().values.flip(0)
    rough = rough - rough[-1]
    for curve in [*network(seed), Curve(torch.linspace(0.1, 1, 11), rough, 1 / 11)]:
        kept = [num_kept(curve, level) for level in torch.linspace(1e-9, 1, 200).tolist()]
        assert kept == sorted(kept)
        assert kept[0] == 1
        assert kept[-1] == len(curve.kept_variance)


def test_full_level_cuts_what_does_no_damage() -> None:
    """At level 1 units are free, so only those whose loss is not felt at all go."""
    damage = torch.tensor([1.0, 0.5, 0.2, 0.0, 0.0, 0.0], dtype=torch.float64)
    assert num_kept(Curve(torch.ones(5), damage, 0.2), 1.0) == 3


def test_expensive_units_go_before_cheap_ones() -> None:
    """Of two groups with the same damage the one whose units cost more keeps fewer."""
    damage = convex(20, 3, 1.0)
    cheap, dear = (Curve(torch.linspace(0.05, 1, 20), damage / damage[0], cost) for cost in (0.01, 0.05))
    assert num_kept(dear, 0.5) < num_kept(cheap, 0.5)
