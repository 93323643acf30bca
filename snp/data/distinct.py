"""Which of the calibration samples that were drawn say something that no earlier one says?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from snp.graph.batches import Batch
from snp.measure.near_copies import compared, is_table, near_in_any
from snp.measure.repeats import Repeats

__all__ = ["distinct"]


def distinct(raws: Iterable[Any]) -> list[int]:
    """Numbers of the samples that are neither equal to an earlier one nor nearly so.

    Every process finds the same, because each looks at all of them.

    Args:
        raws: batches as a loader yields them, in order; of each only what samples are compared by stays in memory.
    """
    repeats, parts, table = Repeats(), list[tuple[Tensor, ...] | None](), False
    for batch in repeats.left_out_of(Batch.of(raw) for raw in raws):
        parts.append(compared(batch))
        table = is_table(batch)
    goes = near_in_any(parts, table)
    if goes is None:  # whole numbers, or of several sizes
        return repeats.kept
    return [number for number, gone in zip(repeats.kept, goes.tolist(), strict=True) if not gone]
