"""Does every cut rise with its level, and keep what it promises?"""

import pytest
import torch
from torch import Tensor

from snp.core import cuts
from snp.core.cuts import Curve
from snp.core.reconstruct import output_error
from snp.core.subspace import factorize

LEVELS = [1e-9, 0.01, 0.1, 0.3, 0.5, 0.77, 0.9, 0.99, 0.999999, 1.0]


def curve_of(gram: Tensor, share: float = 1.0) -> Curve:
    """Units in their own order, read by plain sums, with a share of the network's damage and cost."""
    given = factorize(gram, torch.arange(len(gram)))
    damage = output_error(torch.eye(len(gram)).double(), given)
    return Curve(given.kept_variance(), share * damage / (float(damage[0]) or 1.0), share / len(gram))


def curve(kind: str) -> Curve:
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(60, 20, generator=generator, dtype=torch.float64)
    if kind == "low rank":
        columns = columns[:, :5] @ torch.randn(5, 20, generator=generator, dtype=torch.float64)
    elif kind == "dead":
        columns[:, 12:] = 0
    elif kind == "all dead":
        columns *= 0
    elif kind == "one unit":
        columns = columns[:, :1]
    elif kind == "dominant":
        columns[:, 0] *= 1e6
    return curve_of(columns.T @ columns)


KINDS = ["full rank", "low rank", "dead", "all dead", "one unit", "dominant"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", cuts.names())
def test_number_kept_rises_with_the_level(name: str, kind: str) -> None:
    """More level never keeps fewer units, and 1 to U of them stay at every level."""
    given = curve(kind)
    kept = [cuts.load(name)(given, level) for level in LEVELS]
    assert kept == sorted(kept)
    assert all(isinstance(count, int) for count in kept)
    assert kept[0] >= 1
    assert kept[-1] <= len(given.kept_variance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", cuts.names())
def test_full_level_keeps_every_unit_that_holds_something(name: str, kind: str) -> None:
    """At level 1 only units without any energy of their own may go."""
    given = curve(kind)
    kept = cuts.load(name)(given, 1.0)
    assert float(given.kept_variance[kept - 1]) >= 1 - 1e-11


def test_uniform_keeps_the_share_to_the_nearest_unit() -> None:
    """A level of 0.5 keeps half, 0.26 of ten keeps three, and never none."""
    given = curve_of(torch.eye(10))
    assert [cuts.load("uniform")(given, level) for level in (0.5, 0.26, 0.24, 0.001, 1.0)] == [5, 3, 2, 1, 10]


def residuals(values: list[float]) -> Curve:
    return curve_of(torch.diag(torch.tensor(values, dtype=torch.float64)))


def test_output_spends_a_budget_where_it_does_least_damage() -> None:
    """Over two groups, the cut at any price is the cheapest of all ways to keep as many units in total."""
    curves = [residuals([9, 5, 1, 0.2]), residuals([4, 3, 2, 1])]
    damages = [given.damage for given in curves]
    for level in (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95):
        kept = [cuts.load("output")(given, level) for given in curves]
        spent = [float(damage[count]) for damage, count in zip(damages, kept, strict=True) if damage is not None]
        ways = [(a, sum(kept) - a) for a in range(1, 5) if 1 <= sum(kept) - a <= 4]
        least = min(float(damages[0][a] + damages[1][b]) for a, b in ways)  # type: ignore[index]
        assert sum(spent) == pytest.approx(least)


@pytest.mark.parametrize(
    ("level", "wanted"), [(0.1, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.76, 3), (0.875, 3), (0.9, 4), (1.0, 4)]
)
def test_variance_keeps_the_smallest_number_that_holds_the_level(level: float, wanted: int) -> None:
    """Residuals 4, 2, 1, 1 hold 0.5, 0.75, 0.875 and 1 of their sum; an exact hit is enough."""
    assert cuts.load("variance")(residuals([4, 2, 1, 1]), level) == wanted


def test_variance_at_full_level_drops_what_holds_nothing() -> None:
    """Dead and dependent units go at any level."""
    assert cuts.load("variance")(residuals([3, 1, 0, 0]), 1.0) == 2
    assert cuts.load("variance")(curve("low rank"), 1.0) == 5


def test_unknown_name_lists_the_known_ones() -> None:
    """A wrong name is answered with all right ones."""
    with pytest.raises(ValueError, match=r"output, uniform, variance.*found 'energy'"):
        cuts.load("energy")
