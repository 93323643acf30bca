"""In which steps do groups keep units?"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Rounding"]

_MULTIPLES = 16  # of a step fit into a group that is wide


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
