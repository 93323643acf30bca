"""How are moments summed over many batches without a new matrix for each of them?"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from snp.core.gram import NOT_FINITE, Moments

__all__ = ["MomentSum"]

# Rows turned into the products' precision at a time: bounds the memory of the conversion, not the result.
_CHUNK_ROWS = 65536
# From this width on the upper triangle alone is summed, in so many panels of columns.
_WIDE = 512
_PANELS = 4


class MomentSum:
    """Moments of all samples that were added, in one buffer per tensor.

    Args:
        num_columns: C.
        product_dtype: precision of the products inside a chunk of rows; the sums are float64 in any case.
    """

    def __init__(self, num_columns: int, product_dtype: torch.dtype = torch.float64) -> None:
        self._num_columns, self._dtype = num_columns, product_dtype
        num_panels = _PANELS if num_columns >= _WIDE else 1
        edges = [num_columns * panel // num_panels for panel in range(num_panels + 1)]
        self._panels = list(pairwise(edges))
        self._second: Tensor | None = None
        self._first: Tensor | None = None
        self._count = 0

    def add(self, samples_NC: Tensor) -> None:
        """Samples of any floating dtype, shape [N, C], on the device of those before."""
        assert samples_NC.ndim == 2, samples_NC.shape
        second, first = self._buffers(samples_NC)
        for chunk in samples_NC.split(_CHUNK_ROWS):
            rows = chunk.to(self._dtype)
            for start, stop in self._panels:
                panel, target = rows[:, start:stop].T, second[start:stop, start:]
                if self._dtype == torch.float64:
                    target.addmm_(panel, rows[:, start:])
                else:
                    target.add_(panel @ rows[:, start:])
            first.add_(rows.sum(dim=0))
        self._count += len(samples_NC)

    def add_moments(self, moments: Moments) -> None:
        """Samples of which the moments are known."""
        second, first = self._buffers(moments.second)
        second.add_(moments.second)
        first.add_(moments.first)
        self._count += moments.count

    def _buffers(self, like: Tensor) -> tuple[Tensor, Tensor]:
        if self._second is None or self._first is None:
            size = self._num_columns
            with torch.inference_mode(False):  # sums outlive the mode
                self._second = torch.zeros(size, size, dtype=torch.float64, device=like.device)
                self._first = torch.zeros(size, dtype=torch.float64, device=like.device)
        return self._second, self._first

    def taken(self, *, check: bool = True) -> Moments:
        """The sums; they are the caller's from here on, and nothing may be added.

        Args:
            check: look whether they are finite, for which a device has to be waited for.

        Raises:
            ValueError: the samples hold NaN or infinity.
        """
        if self._second is None or self._first is None:
            return Moments.zeros(self._num_columns)
        second, first = self._second, self._first
        self._second = self._first = None
        for start, stop in self._panels:
            second[stop:, start:stop] = second[start:stop, stop:].T
        if check and not bool(torch.isfinite(second.diagonal()).all()):
            raise ValueError(NOT_FINITE)
        return Moments(second, first, self._count)
