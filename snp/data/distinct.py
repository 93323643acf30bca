"""Which of the calibration samples that were drawn say something that no earlier one says?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from snp.graph.batches import Batch
from snp.measure.near_copies import compared, is_table, near_copies
from snp.measure.repeats import Repeats

__all__ = ["distinct"]


def distinct(raws: Iterable[Any]) -> list[int]:
    """Numbers of the samples that are neither equal to an earlier one nor nearly so.

    Every process finds the same, because each looks at all of them.

    Args:
        raws: batches as a loader yields them, in order; of each only what samples are compared by stays in memory.
    """
    repeats, rows, table = Repeats(), list[Tensor | None](), False
    for batch in repeats.left_out_of(Batch.of(raw) for raw in raws):
        rows.append(compared(batch))
        table = is_table(batch)
    found = [part for part in rows if part is not None]
    if len(found) < len(rows) or len({part.shape[1] for part in found}) != 1:
        return repeats.kept  # no floating numbers, or of several sizes
    goes = near_copies(torch.cat(found), table=table)
    return [number for number, gone in zip(repeats.kept, goes.tolist(), strict=True) if not gone]
