"""Does every cut rise with its level, and keep what it promises?"""

import pytest
import torch
from torch import Tensor

from snp.core import cuts
from snp.core.subspace import Subspace, factorize

LEVELS = [1e-9, 0.01, 0.1, 0.3, 0.5, 0.77, 0.9, 0.99, 0.999999, 1.0]


def subspace(kind: str) -> Subspace:
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
    order = torch.arange(columns.shape[1])
    return factorize(columns.T @ columns, order)


KINDS = ["full rank", "low rank", "dead", "all dead", "one unit", "dominant"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", cuts.names())
def test_number_kept_rises_with_the_level(name: str, kind: str) -> None:
    """More level never keeps fewer units, and 1 to U of them stay at every level."""
    given = subspace(kind)
    kept = [cuts.load(name)(given, level) for level in LEVELS]
    assert kept == sorted(kept)
    assert all(isinstance(count, int) for count in kept)
    assert 1 <= kept[0]
    assert kept[-1] <= len(given.order)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", cuts.names())
def test_full_level_keeps_every_unit_that_holds_something(name: str, kind: str) -> None:
    """At level 1 only units without any energy of their own may go."""
    given = subspace(kind)
    dropped = given.residual[cuts.load(name)(given, 1.0) :]
    assert float(dropped.sum()) <= 1e-11 * float(given.residual.sum())


def test_uniform_keeps_the_share_to_the_nearest_unit() -> None:
    """A level of 0.5 keeps half, 0.26 of ten keeps three, and never none."""
    given = factorize(torch.eye(10), torch.arange(10))
    assert [cuts.load("uniform")(given, level) for level in (0.5, 0.26, 0.24, 0.001, 1.0)] == [5, 3, 2, 1, 10]


def residuals(values: list[float]) -> Subspace:
    diagonal: Tensor = torch.tensor(values, dtype=torch.float64)
    return factorize(torch.diag(diagonal), torch.arange(len(values)))


@pytest.mark.parametrize(
    ("level", "wanted"), [(0.1, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.76, 3), (0.875, 3), (0.9, 4), (1.0, 4)]
)
def test_variance_keeps_the_smallest_number_that_holds_the_level(level: float, wanted: int) -> None:
    """Residuals 4, 2, 1, 1 hold 0.5, 0.75, 0.875 and 1 of their sum; an exact hit is enough."""
    assert cuts.load("variance")(residuals([4, 2, 1, 1]), level) == wanted


def test_variance_at_full_level_drops_what_holds_nothing() -> None:
    """Dead and dependent units go at any level."""
    assert cuts.load("variance")(residuals([3, 1, 0, 0]), 1.0) == 2
    assert cuts.load("variance")(subspace("low rank"), 1.0) == 5


def test_unknown_name_lists_the_known_ones() -> None:
    """A wrong name is answered with all right ones."""
    with pytest.raises(ValueError, match="uniform, variance.*found 'energy'"):
        cuts.load("energy")
