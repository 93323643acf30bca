"""Which units must be cut evenly?  Grouped convolutions read, and produce, the same number of units in every group."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from snp.graph.tracer import Tracer

__all__ = ["Evenness"]

Key = tuple[tuple[int, tuple[int, ...]], ...]  # (constraint, indices in each of its parts), one unit's


class Evenness:
    """All constraints of a traced network that parts keep equal numbers, looked up unit by unit."""

    def __init__(self, tracer: Tracer) -> None:
        self._names = [name for _, _, name in tracer.even]
        self._counts: dict[int, dict[int, Counter[int]]] = defaultdict(lambda: defaultdict(Counter))
        self._num_parts = [num_parts for _, num_parts, _ in tracer.even]
        for number, (labels, num_parts, _) in enumerate(tracer.even):
            size = len(labels) // num_parts
            for position, root in enumerate(tracer.labels.roots(labels).tolist()):
                self._counts[root][number][position // size] += 1

    def _key(self, root: int) -> Key:
        """How many indices the unit has in each part, for every constraint that it does not meet by itself."""
        key = []
        for number, counts in sorted(self._counts.get(root, {}).items()):
            per_part = tuple(counts[part] for part in range(self._num_parts[number]))
            if len(set(per_part)) > 1:
                key.append((number, per_part))
        return tuple(key)

    def partitions(self, roots: Sequence[int]) -> tuple[list[int], int]:
        """The units of one group, partition by partition, and the number of partitions.

        As many units of each partition always are as many indices of each part, for every constraint.

        Raises:
            ValueError: no partition of these units has that property, or its partitions are single units.
        """
        members: dict[Key, list[int]] = defaultdict(list)
        for root in roots:
            members[self._key(root)].append(root)
        if list(members) == [()]:
            return list(roots), 1
        number = next(key[0][0] for key in members if key)
        reason = f"the groups of {self._names[number]} do not share them evenly"
        if len({len(units) for units in members.values()}) > 1:
            raise ValueError(reason)
        totals: dict[int, list[int]] = {}
        for key in members:
            for constraint, per_part in key:
                total = totals.setdefault(constraint, [0] * len(per_part))
                totals[constraint] = [a + b for a, b in zip(total, per_part, strict=True)]
        if any(len(set(total)) > 1 for total in totals.values()):
            raise ValueError(reason)
        if len(roots) == len(members):
            raise ValueError(f"each group of {self._names[number]} has one of them")
        return [root for units in members.values() for root in units], len(members)
