"""Which groups keep equally many units?  The experts of one layer, whose weights are stacked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from snp.graph.units import UnitGroup

__all__ = ["evened", "twins_left", "twins_of"]


def twins_of(groups: Sequence[UnitGroup]) -> list[tuple[int, ...]]:
    """For every group the numbers of all groups that keep as many units, its own among them."""
    sets: dict[str, list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        if group.twins:
            sets[group.twins].append(number)
    return [tuple(sets[group.twins]) if group.twins else (number,) for number, group in enumerate(groups)]


def evened(groups: Sequence[UnitGroup], kept: Sequence[int]) -> list[int]:
    """Numbers of kept units with the mean of all twins, rounded up, at each of them."""
    return [-(-sum(kept[twin] for twin in twins) // len(twins)) for twins in twins_of(groups)]


def twins_left(groups: Iterable[UnitGroup], refused: Collection[str]) -> dict[str, str]:
    """Name -> reason of the groups that are left alone because a twin is."""
    partial = {group.twins for group in groups if group.twins and group.name in refused}
    return {
        group.name: f"another expert of {group.twins} is left alone"
        for group in groups
        if group.twins in partial and group.name not in refused
    }
