"""How are heads turned that lost some of their dimensions?  By the entries of the tables that belong to the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["turned_heads"]


def turned_heads(
    turn: Callable[..., Any],
    heads: Sequence[Tensor],
    tables: tuple[Tensor, Tensor],
    places: Tensor | None,
    first_places: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Queries and keys, [B, H, N, D], the first R dimensions of each dense head turned by an angle per position.

    Args:
        turn: a function of transformers: queries, keys, cosines and sines to queries and keys.
        heads: queries and keys.
        tables: cosines and sines, [B or 1, N, R], of the dense heads; dimensions behind these are not turned.
        places: which dimensions of the dense head each head of keys has, [H of keys, D]; None for all of them.
        first_places: those of the first head; all heads have as many that are turned.
    """
    width = tables[0].shape[-1]
    if places is None:
        first = [part[..., :width] for part in heads]
        turned = [*turn(*first, *tables)]
    else:
        places = places[:, : sum(place < width for place in first_places)]
        first = [part[..., : places.shape[1]] for part in heads]
        turned = [_by_head(turn, part, places, tables) for part in first]
    width = first[0].shape[-1]
    query, key = (
        torch.cat([part, whole[..., width:]], dim=-1) if whole.shape[-1] > width else part
        for part, whole in zip(turned, heads, strict=True)
    )
    return query, key


def _by_head(turn: Callable[..., Any], heads: Tensor, places: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Heads [B, H, N, D] turned by the entries of their own dimensions, [H of keys, D]."""
    places = places.repeat_interleave(heads.shape[1] // len(places), dim=0)
    # Each head is a sample of its own.
    own = [table[..., places].transpose(1, 2).expand(len(heads), -1, -1, -1).flatten(0, 1) for table in tables]
    alone = heads.flatten(0, 1)[:, None]
    turned: Tensor = turn(alone, alone[:, :0], *own)[0][:, 0].unflatten(0, heads.shape[:2])
    return turned
