"""In which steps do groups keep units, and which steps are best by the time that layers take?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["MULTIPLES", "Rounding", "best_rounding", "fits"]

MULTIPLES = (1, 2, 4, 8, 16, 32, 64)  # that devices may like
_MULTIPLES = 16  # of a step fit into a group that is wide
_GENTLER = (16, 8, 4)  # of these as many as may be, where it was measured that rounding pays
_TOLERANCE = 0.05  # of the time at best: less is noise, and no reason to round more


@dataclass(frozen=True)
class Rounding:
    """Kept units are multiples of a number in wide groups.

    Attributes:
        multiple: of so many; 1 switches it off.
        wide: groups of so many units are wide, if two multiples fit; None where 16 multiples fit.
    """

    multiple: int = 8
    wide: int | None = None

    def up(self, num_kept: int, num_units: int, num_partitions: int = 1) -> int:
        """Kept units rounded up to a multiple of the partitions, and of the number where the group is wide enough.

        Args:
            num_kept: units.
            num_units: of the group, which is never passed.
            num_partitions: that keep equal numbers.
        """
        step = math.lcm(self.multiple, num_partitions)
        if num_units < (_MULTIPLES * step if self.wide is None else max(self.wide, 2 * step)):
            step = num_partitions
        return min(num_units, -(-num_kept // step) * step)


def fits(multiple: int, num_units: int) -> bool:
    """Are so many units ever rounded to a multiple by :func:`best_rounding`?"""
    return num_units >= _GENTLER[-1] * multiple


def best_rounding(layers: Sequence[tuple[int, float, Mapping[int, float]]], wide: int | None = None) -> Rounding:
    """The smallest multiple with which layers take hardly longer than with the best one, and from which width on.

    What is rounded costs freedom in the choice of units: so the smaller multiple is taken in doubt, and of wide groups
    that are rounded only so many as it takes.

    Args:
        layers: of each its units, how many layers it stands for, and seconds by multiple; those of 1 are always there.
        wide: units of groups that are rounded, where that is asked for.
    """

    def from_units(multiple: int, fitting: int) -> int:
        return fitting * multiple if wide is None else max(wide, 2 * multiple)

    def seconds(multiple: int, fitting: int) -> float:
        least = from_units(multiple, fitting)
        return sum(
            count * times[multiple if num_units >= least and multiple in times else 1]
            for num_units, count, times in layers
        )

    if not layers:
        return Rounding(1, wide)
    enough = (1 + _TOLERANCE) * min(seconds(multiple, _GENTLER[-1]) for multiple in MULTIPLES)
    multiple = next(multiple for multiple in MULTIPLES if seconds(multiple, _GENTLER[-1]) <= enough)
    fitting = next(fitting for fitting in _GENTLER if seconds(multiple, fitting) <= enough)
    is_usual = wide is not None or multiple == 1 or fitting == _MULTIPLES
    return Rounding(multiple, wide if is_usual else from_units(multiple, fitting))
