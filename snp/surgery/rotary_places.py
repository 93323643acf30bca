"""How are heads turned that lost some of their dimensions?  By the entries of the tables that belong to the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["Turning", "turning_of"]

Turn = Callable[..., Any]


@dataclass(frozen=True)
class Turning:
    """How a function of transformers turns queries and keys by cosines and sines.

    Attributes:
        turn: queries, keys, cosines and sines to queries and keys.
        tables: what it reads of them for R dimensions: ``full``, an entry for each; ``neighbours``, the first half of R
            entries, each for two dimensions side by side; ``halves``, R / 2 entries, each for i and i + R / 2.
        num_turned: R, where the module gives the function so many dimensions only; None where it gives all of a head.
    """

    turn: Turn
    tables: Literal["full", "neighbours", "halves"]
    num_turned: int | None = None

    def heads(
        self,
        query: Tensor,
        key: Tensor,
        tables: tuple[Tensor, Tensor],
        places: Tensor | None,
        first_places: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        """Queries and keys, [B, H, N, D], turned by an angle per position.

        Args:
            query: of all heads.
            key: of all heads.
            tables: cosines and sines, [B or 1, N, R or R / 2] or without samples, of the dense heads' first dimensions.
            places: which dimensions of the dense head each head of keys has, [H of keys, D]; None for all of them.
            first_places: those of the first head; all heads have as many that are turned.
        """
        if places is None:
            width = query.shape[-1] if self.num_turned is None else self.num_turned
            first: Any = self.turn(query[..., :width], key[..., :width], *tables)
        else:
            whole = tables[0].shape[-1] * (2 if self.tables == "halves" else 1)
            width = sum(place < whole for place in first_places)
            entries = self._entries(places[:, :width])
            first = [_by_head(self.turn, part[..., :width], entries, tables) for part in (query, key)]
        turned_query, turned_key = (
            torch.cat([part, heads[..., width:]], dim=-1) if heads.shape[-1] > width else part
            for part, heads in zip(first, (query, key), strict=True)
        )
        return turned_query, turned_key

    def _entries(self, places: Tensor) -> Tensor:
        """Entries of tables for dimensions of heads, [H, R]."""
        if self.tables == "neighbours":
            pairs = places[:, ::2] // 2
            return torch.cat([pairs, pairs], dim=1)
        return places[:, : places.shape[1] // 2] if self.tables == "halves" else places


def turning_of(turn: Turn, num_turned: int | None) -> Turning:
    """What a function reads of its tables, as four dimensions show."""
    generator = torch.Generator().manual_seed(0)
    query, cos, sin = torch.rand(1, 1, 1, 4, generator=generator), *torch.rand(2, 1, 1, 4, generator=generator)
    changed = torch.cat([cos[..., :2], cos[..., 2:] + 1], dim=-1)
    try:
        before, after = (turn(query, query, table, sin)[0] for table in (cos, changed))
    except RuntimeError:  # sizes do not fit
        return Turning(turn, "halves", num_turned)
    except TypeError:  # it is called in another way, and will not run in ours
        return Turning(turn, "full", num_turned)
    return Turning(turn, "neighbours" if torch.equal(before, after) else "full", num_turned)


def _by_head(turn: Turn, heads: Tensor, entries: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Heads [B, H, N, D] turned by the entries of their own dimensions, [H of keys, D or D / 2]."""
    entries = entries.repeat_interleave(heads.shape[1] // len(entries), dim=0)
    own = []  # each head is a sample of its own
    for table in tables:
        by_sample = table[None] if table.ndim == 2 else table
        part = by_sample[..., entries].transpose(1, 2).expand(len(heads), -1, -1, -1).flatten(0, 1)
        own.append(part[:, None] if table.ndim == 2 else part)
    alone = heads.flatten(0, 1)[:, None]
    turned: Tensor = turn(alone, alone[:, :0], *own)[0][:, 0].unflatten(0, heads.shape[:2])
    return turned
