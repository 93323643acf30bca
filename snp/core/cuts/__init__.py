"""How many units of a group stay at a given level?  One file per cut, each with ``num_kept(curve, level)``.

The level is the one number that all groups share. Add a cut: put ``<name>.py`` in this folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from snp.core.registry import Registry

__all__ = ["REGISTRY", "Curve", "load", "names"]


@dataclass(frozen=True)
class Curve:
    """What a cut may look at: a group's units in the order of keeping.

    Attributes:
        kept_variance: share of the orthogonalised variance that the first k units hold, k = 1..U, shape [U], in [0, 1].
        damage: error at the network's output with the first k units kept, k = 0..U, as a share of the error of
            removing everything everywhere, shape [U + 1], decreasing to 0; None where it was not computed.
        unit_cost: cost of one unit as a share of the cost of all units of all groups.
    """

    kept_variance: Tensor
    damage: Tensor | None = None
    unit_cost: float = 0.0


REGISTRY = Registry("prune.cut", "snp.cuts", __name__, "num_kept")


def names() -> list[str]:
    """Names of all cuts: the files of this folder, and entry points of ``snp.cuts``."""
    return REGISTRY.names()


def load(name: str) -> Callable[[Curve, float], int]:
    """The cut of that name: a function from a curve and a level in (0, 1] to a number of units in 1..U.

    Raises:
        ValueError: there is no such cut.
    """
    function: Callable[[Curve, float], int] = REGISTRY.load(name)
    return function
