"""Which samples differ from an earlier one by next to nothing: by rounding, or by another round of JPEG?

They say nothing new either. Held back, such a copy takes any fit for a good one that has seen its twin.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from snp.graph.batch_form import by_kind
from snp.graph.batches import Batch

__all__ = ["compared", "is_table", "near_copies", "without_near_copies"]

# More are not compared, each with each: among so many a few copies do no harm.
_MOST_SAMPLES = 2048
# Of a sample, evenly spread over it.
_MOST_VALUES = 4096
# Vectors of a few numbers come close to each other by chance.
_FEWEST_VALUES = 8
# A copy differs by less than this share of what two samples differ by, most of the time.
_NEAR = 0.05
# Of pairs of samples that differ by less: far enough from the rest that many copies hide nothing.
_USUAL = 0.75


def compared(batch: Batch) -> Tensor | None:
    """What samples are compared by, shape [N, F], float32, on the CPU; None of what is no floating number.

    Columns of a table have units of their own, values of images or waves one unit.
    """
    parts = []
    for place, value in sorted(batch.places, key=lambda pair: pair[0]):
        if not isinstance(value, Tensor) or value.ndim == 0 or place in batch.shared:
            continue
        if not value.is_floating_point():
            return None
        rows = value.detach().reshape(len(value), -1)
        parts.append(rows[:, :: max(1, rows.shape[1] // _MOST_VALUES)].float().cpu())
    return torch.cat(parts, dim=1) if parts else None


def near_copies(rows_NF: Tensor, *, table: bool = False) -> Tensor:
    """Which samples are nearly one that stays and came before, shape [N], bool.

    Args:
        rows_NF: values of samples, finite.
        table: every column counts beside its own spread.
    """
    count, width = rows_NF.shape
    none = torch.zeros(count, dtype=torch.bool)
    if not 3 <= count <= _MOST_SAMPLES or width < _FEWEST_VALUES:
        return none
    values = rows_NF.double()
    values = values - values.mean(dim=0)
    if table:
        spread = values.square().mean(dim=0).sqrt()
        values = values / torch.where(spread > 0, spread, 1.0)
    apart = torch.cdist(values, values)
    pairs = apart[torch.ones_like(apart, dtype=torch.bool).triu(diagonal=1)]
    usual = pairs.sort().values[int(_USUAL * (len(pairs) - 1))]
    is_near, stays = apart < _NEAR * usual, none.clone()
    for sample in range(count):
        stays[sample] = not bool(is_near[sample][stays].any())
    return ~stays


def without_near_copies(batches: Sequence[Batch], group: int = 1) -> list[Batch]:
    """The samples without near copies of others, in order.

    Args:
        batches: on any device.
        group: so many neighbours stay or go together, by the first of them (2: an image and its mirrored one).
    """
    found = list[Batch]()
    for alike in by_kind(batches):
        firsts = [batch.picked(torch.arange(0, batch.size, group)) for batch in alike]
        rows = [compared(batch) for batch in firsts]
        if any(part is None for part in rows):
            found += alike
            continue
        goes = near_copies(torch.cat([part for part in rows if part is not None]), table=is_table(alike[0]))
        for batch, gone in zip(alike, goes.split([batch.size for batch in firsts]), strict=True):
            new = (~gone).repeat_interleave(group).nonzero().flatten()
            if len(new) == batch.size:
                found.append(batch)
            elif len(new):
                found.append(batch.picked(new))
    return found


def is_table(batch: Batch) -> bool:
    """Is every sample a vector?"""
    return all(not isinstance(v, Tensor) or v.ndim <= 2 for place, v in batch.places if place not in batch.shared)
