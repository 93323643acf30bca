"""What does an attention layer own: which rows compute each head's queries, keys and values?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snp.graph.units import Slice, UnitGroup

__all__ = ["AttentionLayer", "HeadSizes", "Removed"]

Removed = Mapping[tuple[str, int], Tensor]  # (tensor, dim) -> indices that go


@dataclass(frozen=True)
class HeadSizes:
    """Numbers that an attention module keeps about its heads."""

    num_heads: int
    num_key_value_heads: int
    query_size: int  # of queries and keys, per head
    value_size: int


@dataclass(frozen=True, eq=False)
class AttentionLayer:
    """Rows of weights behind one product of queries and keys.

    Attributes:
        module: name of the module that computes the product.
        query: rows of each head's queries, index of shape [H, D].
        key: rows of the keys that each query head meets, [H, D]; heads that share keys (GQA) name the same rows.
        value: the same for values, [H, V].
        implicit_scale: the fused product is called without a scale, and takes that of the size it gets.
        is_rotary: queries and keys are turned by tables that have an entry for every dimension of a head, so that a
            head of fewer dimensions has to pick its own.
    """

    module: str
    query: Slice
    key: Slice
    value: Slice
    implicit_scale: bool = False
    is_rotary: bool = False

    def sizes(self, removed: Removed | None = None) -> HeadSizes:
        """Sizes once some rows are gone.

        Raises:
            ValueError: heads would be left with unequal sizes.
        """
        query, key, value = (_left(part, removed or {}) for part in (self.query, self.key, self.value))
        stays = query > 0
        sizes = [set(part[stays].tolist()) for part in (query, key, value)]
        same_heads = torch.equal(stays, key > 0) and torch.equal(stays, value > 0)
        if any(len(found) != 1 for found in sizes) or sizes[0] != sizes[1] or not same_heads:
            raise ValueError(f"the heads of {self.module} would keep unequal numbers of queries, keys and values")
        num_shared = len(self.key.index[stays].unique(dim=0))
        return HeadSizes(int(stays.sum()), num_shared, sizes[0].pop(), sizes[2].pop())

    def places_of_units(self, group: UnitGroup, keys: Tensor) -> Tensor:
        """At which places in a head its units lie, shape [units, dimensions of each].

        Args:
            group: of dimensions of queries and keys.
            keys: rows of the head's keys, shape [D].
        """
        own, order = self._rows_of(group)[self.units_of(group, keys)], keys.argsort()
        return order[torch.searchsorted(keys[order], own[torch.isin(own, keys)])].reshape(len(own), -1)

    def units_of(self, group: UnitGroup, keys: Tensor) -> Tensor:
        """Which units of a group lie in a head, shape [units]; arguments as of :meth:`places_of_units`."""
        return torch.isin(self._rows_of(group), keys).any(dim=1).nonzero().flatten()

    def shares_units(self, group: UnitGroup) -> bool:
        """Does a unit lie in several heads, as where relative positions are compared with the queries of all?"""
        rows = self.value if group.kind == "vo" else self.key
        return len(rows.index.unique(dim=0)) > group.num_partitions

    def _rows_of(self, group: UnitGroup) -> Tensor:
        return next(member.index for member in group.producers if member.tensor == self.key.tensor)

    def heads_left(self, removed: Removed) -> Tensor:
        """Which heads of queries stay, shape [H']."""
        return _left(self.query, removed).nonzero().flatten()

    def places(self, removed: Removed) -> tuple[Tensor, Tensor]:
        """Which heads of keys stay, shape [H'], and at which places in a head their kept rows are, shape [H', D']."""
        keys = self.key.index.unique(dim=0)
        is_kept = ~torch.isin(keys, removed.get((self.key.tensor, self.key.dim), torch.empty(0, dtype=torch.int64)))
        heads = is_kept.any(dim=1).nonzero().flatten()
        return heads, torch.stack([is_kept[head].nonzero().flatten() for head in heads])

    def to_json(self) -> dict[str, Any]:
        """Readable form."""
        parts = {role: getattr(self, role).to_json() for role in ("query", "key", "value")}
        return {
            "module": self.module,
            "num_heads": len(self.query.index),
            "implicit_scale": self.implicit_scale,
            **({"is_rotary": True} if self.is_rotary else {}),
            **parts,
        }

    @staticmethod
    def from_json(plain: dict[str, Any]) -> AttentionLayer:
        """Inverse of :meth:`to_json`."""
        num_heads = plain["num_heads"]
        query, key, value = (Slice.from_json(plain[role], num_heads) for role in ("query", "key", "value"))
        return AttentionLayer(
            plain["module"], query, key, value, plain["implicit_scale"], plain.get("is_rotary", False)
        )


def _left(rows: Slice, removed: Removed) -> Tensor:
    """Number of rows that each head keeps, shape [H]."""
    gone = removed.get((rows.tensor, rows.dim))
    if gone is None:
        return torch.full((len(rows.index),), rows.width)
    return (~torch.isin(rows.index, gone)).sum(dim=1)
