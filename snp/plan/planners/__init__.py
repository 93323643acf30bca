"""Moments, weights and a budget: which units stay?  One file per method, each with ``choose(problem, settings)``.

Add a planner: put ``<name>.py`` in this folder, or bring it as an entry point of ``snp.planners``;
``prune.planner=<name>`` and the contract tests find it.
"""

from __future__ import annotations

from collections.abc import Callable

from snp.plan.problem import Problem, Selection
from snp.settings import PLANNERS, PruneSettings

__all__ = ["Planner", "load", "names"]

Planner = Callable[[Problem, PruneSettings], Selection]


def names() -> list[str]:
    """Names of all planners: the files of this folder, and entry points of ``snp.planners``."""
    return PLANNERS.names()


def load(name: str) -> Planner:
    """The planner of that name.

    Raises:
        ValueError: there is no such planner.
    """
    planner: Planner = PLANNERS.load(name)
    return planner
