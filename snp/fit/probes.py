"""Which calibration samples are predicted on trial, and which are there to fit on?"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from snp.graph.batches import Batch

__all__ = ["last_samples", "without_last"]


def last_samples(batches: Sequence[Batch], count: int) -> list[Batch]:
    """The last batches, the first of them cut short, that hold so many samples."""
    found: list[Batch] = []
    for batch in reversed(batches):
        if count <= 0:
            break
        found.append(batch.first(count))
        count -= batch.size
    return found


def without_last(batches: Sequence[Batch], count: int, most: int) -> list[Batch]:
    """The samples that :func:`last_samples` leaves, from the first on, at most ``most``."""
    found: list[Batch] = []
    for batch in reversed(batches):
        used = min(max(count, 0), batch.size)
        found += [batch.picked(torch.arange(used, batch.size))] if used < batch.size else []
        count -= batch.size
    left, some = most, list[Batch]()
    for batch in reversed(found):
        some += [batch.first(left)] if left > 0 else []
        left -= batch.size
    return some
