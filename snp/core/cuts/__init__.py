"""How many units of a group stay at a given level?  One file per cut, each with ``num_kept(subspace, level)``.

The level is the one number that all groups share. Add a cut: put ``<name>.py`` in this folder.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from snp.core.subspace import Subspace

__all__ = ["load", "names"]


def names() -> list[str]:
    """Names of all cuts: the files of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Callable[[Subspace, float], int]:
    """The cut of that name: a function from a subspace and a level in (0, 1] to a number of units in 1..U.

    Raises:
        ValueError: there is no such cut.
    """
    if name not in names():
        raise ValueError(f"cut must be one of {', '.join(names())}; found {name!r}")
    function: Callable[[Subspace, float], int] = importlib.import_module(f"{__name__}.{name}").num_kept
    return function
