"""Moments, weights and a budget: which units stay?  One file per method, each with ``choose(problem, settings)``.

Add a planner: put ``<name>.py`` in this folder, or bring it as an entry point of ``snp.planners``;
``prune.planner=<name>`` and the contract tests find it.
"""

from __future__ import annotations

from collections.abc import Callable

from snp.core.agreed import checked_count, checked_order
from snp.graph.units import UnitGroup
from snp.plan.problem import Choice, Problem, Selection
from snp.plan.twins import evened
from snp.settings import PLANNERS, PruneSettings

__all__ = ["Planner", "chosen", "load", "names"]

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


def chosen(problem: Problem, settings: PruneSettings) -> Selection:
    """What the planner that the settings name chooses.

    Raises:
        ValueError: the target cannot be met, or the planner gives no choice of units for every group.
    """
    method = f"{PLANNERS.option}={settings.planner}"
    selection: object = load(settings.planner)(problem, settings)
    if not isinstance(selection, Selection) or len(selection.choices) != len(problem.groups):
        found = f"{len(selection.choices)} choices" if isinstance(selection, Selection) else f"{selection!r:.80}"
        raise ValueError(f"{method} must give a Selection with {len(problem.groups)} choices, one a group, not {found}")
    for group, choice in zip(problem.groups, selection.choices, strict=True):
        _check(group, choice, method)
    if selection.kept != evened(problem.groups, selection.kept):
        raise ValueError(f"{method} must keep equally many units of groups that have one name in UnitGroup.twins")
    target = problem.target
    if target.is_counted and not problem.blocks:
        share = problem.costs.share_of(target)(selection.kept)
        if share > target.share:
            raise ValueError(f"{method} must stay within {target.option}={target.share:g}; it keeps {share:.4f}")
    return selection


def _check(group: UnitGroup, choice: Choice, method: str) -> None:
    """A choice of the group's units, of each partition equally many."""
    where = f"{method}, of {group.name},"
    checked_order(choice.order, group.num_units, where)
    count = checked_count(choice.num_kept, group.num_units, where)
    if not group.is_even(choice.kept) or (count % group.step and count < group.num_units):
        raise ValueError(
            f"{where} must keep a multiple of {group.step} units, equally many of each of {group.num_partitions} "
            f"partitions; it keeps {count}"
        )
    for name, size in (("kept_variance", group.num_units), ("damage", group.num_units + 1)):
        curve = getattr(choice, name)
        if curve is not None and curve.shape != (size,):
            raise ValueError(f"{where} must give {name} of shape [{size}] or None, not {list(curve.shape)}")
