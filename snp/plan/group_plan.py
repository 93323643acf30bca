"""What was decided for one group, and how does a file say it?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from snp.graph.units import Count, Slice, UnitGroup

__all__ = ["GroupPlan", "group_from_json", "group_to_json"]


@dataclass(frozen=True, eq=False, repr=False)
class GroupPlan:
    """The decision for one group.

    Attributes:
        group: its units and what they own.
        kept: indices of units that stay, ascending, shape [K], K >= 1.
        kept_variance: share of the group's orthogonalised variance that the kept units hold, in [0, 1]; None when
            the planner does not measure it.
    """

    group: UnitGroup
    kept: Tensor
    kept_variance: float | None = None

    @property
    def cut(self) -> Tensor:
        """Indices of the units that go, ascending."""
        is_cut = torch.ones(self.group.num_units, dtype=torch.bool)
        is_cut[self.kept] = False
        return is_cut.nonzero().flatten()

    def __repr__(self) -> str:
        return f"GroupPlan({self.group.name}: {len(self.kept)} of {self.group.num_units} units)"


def group_to_json(decision: GroupPlan) -> dict[str, Any]:
    """JSON values of a decision."""
    group = decision.group
    return {
        "name": group.name,
        "kind": group.kind,
        "num_units": group.num_units,
        "num_partitions": group.num_partitions,
        "num_kept": len(decision.kept),
        "kept_variance": None if decision.kept_variance is None else round(decision.kept_variance, 6),
        "kept": decision.kept.tolist(),
        "is_stream": group.is_stream,
        **{
            role: [member.to_json() for member in getattr(group, role)] for role in ("producers", "consumers", "others")
        },
        **({"counts": [asdict(count) for count in group.counts]} if group.counts else {}),
    }


def group_from_json(plain: dict[str, Any]) -> GroupPlan:
    """Inverse of :func:`group_to_json`.

    Raises:
        ValueError: the units do not fit their number.
    """
    num_units = plain["num_units"]
    roles = {
        role: tuple(Slice.from_json(entry, num_units) for entry in plain[role])
        for role in ("producers", "consumers", "others")
    }
    num_partitions = plain.get("num_partitions", 1)  # plans of earlier versions know no other
    group = UnitGroup(
        plain["name"],
        num_units,
        roles["producers"],
        roles["consumers"],
        roles["others"],
        is_stream=plain["is_stream"],
        num_partitions=num_partitions,
        kind=plain.get("kind", "ffn"),
        counts=tuple(Count(**entry) for entry in plain.get("counts", [])),
    )
    kept = torch.tensor(plain["kept"], dtype=torch.int64)
    fits = kept.ndim == 1 and len(kept) > 0 and int(kept[0]) >= 0 and int(kept[-1]) < num_units
    if not fits or not bool((kept.diff() > 0).all()) or any(len(m.index) != num_units for m in group.members):
        raise ValueError(f"the units of {group.name} do not fit their number {num_units}")
    if not group.is_even(kept):
        raise ValueError(f"the {group.num_partitions} partitions of {group.name} keep unequal numbers of units")
    return GroupPlan(group, kept, plain["kept_variance"])
