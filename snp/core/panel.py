"""Which columns has a matrix still to catch up with?  They come a few at a time, and are read together.

In main memory only those that have come are read. On a GPU all places are, empty ones hold zeros: so every step is the
same operators on the same tensors, and can be recorded once (:mod:`snp.core.repeated`).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Panel"]


class Panel:
    """Columns [R, up to ``most``].

    Args:
        like: a tensor of R rows, for dtype and device.
        most: columns there is room for.
        width: that come at a time.
        fixed: whether all places are read; by default on a GPU.
    """

    def __init__(self, like: Tensor, most: int, width: int, *, fixed: bool | None = None) -> None:
        self._columns = like.new_zeros(len(like), most)
        self._own = torch.arange(width, device=like.device)
        self._next, self._used = self._own.clone(), 0
        self._is_fixed = like.is_cuda if fixed is None else fixed

    @property
    def columns(self) -> Tensor:
        """Those that have come, shape [R, used]; or all, with zeros in place of what is to come."""
        return self._columns if self._is_fixed else self._columns[:, : self._used]

    @property
    def is_empty(self) -> bool:
        """Is there nothing to be read?  Never where all places are."""
        return not self._is_fixed and self._used == 0

    def add(self, rows: Tensor) -> None:
        """The next columns, given as rows, shape [width, R]."""
        if self._is_fixed:
            self._columns.index_copy_(1, self._next, rows.T)
            self._next += len(self._own)
        else:
            self._columns[:, self._used : self._used + len(self._own)] = rows.T
            self._used += len(self._own)

    def clear(self) -> None:
        """None has come."""
        self._used = 0
        if self._is_fixed:
            self._columns.zero_()
            self._next.copy_(self._own)

    def compact(self, num_rows: int) -> None:
        """Forget rows, of an empty panel."""
        self._columns = self._columns[:num_rows].clone()
