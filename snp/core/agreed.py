"""Did an ordering, a cut or a planner give what it has to?  Each is held to it where it is called.

What is wrong is said in the name of the option that asked for the method, because all that follows rests on it: a unit
that an order leaves out is gone without a word, and a count that is none fails far away.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["checked_count", "checked_order", "refuse_falling"]

# Levels at which a cut is asked before it is relied on; between neighbours this far apart rounding decides nothing.
_LEVELS = (0.001, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


def checked_order(found: object, num_units: int, method: str) -> Tensor:
    """An order of units, as it was given, on its device.

    Args:
        found: what a method gave.
        num_units: U.
        method: the option that asked for it, with its value: ``prune.ordering=mine``.

    Raises:
        ValueError: it is no permutation of 0..U - 1 of int64, shape [U].
    """
    wrong = ""
    if not isinstance(found, Tensor):
        wrong = f"a {type(found).__name__}"
    elif found.dtype != torch.int64 or found.shape != (num_units,):
        wrong = f"a tensor of {str(found.dtype).removeprefix('torch.')}, shape {list(found.shape)}"
    elif not torch.equal(found.sort().values, torch.arange(num_units, device=found.device)):
        wrong = f"numbers from {int(found.min())} to {int(found.max())}, {num_units - len(found.unique())} repeated"
    if wrong or not isinstance(found, Tensor):
        raise ValueError(
            f"{method} must give every number from 0 to {num_units - 1} once, the units of this group with the most "
            f"important first, as a tensor of int64, shape [{num_units}]; it gave {wrong}. Mend that method, or ask "
            "for another one"
        )
    return found


def checked_count(found: object, num_units: int, method: str) -> int:
    """How many units stay, as it was given.

    Args:
        found: what a method gave.
        num_units: U.
        method: the option that asked for it, with its value: ``prune.cut=mine``.

    Raises:
        ValueError: it is no ``int`` in 1..U.
    """
    if isinstance(found, int) and not isinstance(found, bool) and 1 <= found <= num_units:
        return found
    raise ValueError(
        f"{method} must give an int from 1 to {num_units}, how many units of this group stay; it gave {found!r}. Mend "
        "that method, or ask for another one"
    )


def refuse_falling(num_kept: Callable[[float], int], method: str) -> None:
    """A cut that keeps fewer units of a group at a higher level has none that meets a target.

    Args:
        num_kept: level in (0, 1] -> kept units of one group.
        method: the option that asked for it, with its value: ``prune.cut=mine``.

    Raises:
        ValueError: kept units fall.
    """
    counts = [num_kept(level) for level in _LEVELS]
    for place in range(1, len(counts)):
        if counts[place] < counts[place - 1]:
            raise ValueError(
                f"{method} must not keep fewer units of a group at a higher level; it keeps {counts[place - 1]} at "
                f"level {_LEVELS[place - 1]:g} and {counts[place]} at {_LEVELS[place]:g}. Mend that method, or ask for "
                "another one"
            )
