"""Moments, weights and a budget: which units stay?  One file per method, each with ``choose(problem, settings)``.

Add a planner: put ``<name>.py`` in this folder; ``prune.planner=<name>`` and the contract tests find it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from snp.plan.problem import Problem, Selection
from snp.settings import PruneSettings

__all__ = ["Planner", "load", "names"]

Planner = Callable[[Problem, PruneSettings], Selection]


def names() -> list[str]:
    """Names of all planners: the files of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> Planner:
    """The planner of that name.

    Raises:
        ValueError: there is no such planner.
    """
    if name not in names():
        raise ValueError(f"prune.planner must be one of {', '.join(names())}; found {name!r}")
    planner: Planner = importlib.import_module(f"{__name__}.{name}").choose
    return planner
