"""What are the samples of a layer's fit, and which of them are held back while its ridge is chosen?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from snp.core.gram import CrossMoments
from snp.core.sums import Sums

__all__ = ["HOLD_BACK_ONE_IN", "Parts", "Rows", "is_held_back"]

# One batch in so many is held back while the ridge is chosen.
HOLD_BACK_ONE_IN = 4


@dataclass(frozen=True, eq=False)
class Rows:
    """Samples of one batch.

    Attributes:
        inputs: shape [N, K].
        target: what the layer should give out without its bias, shape [N, O].
        dense: pre-activations of the dense network at a rectifier behind the layer, shape [N, O]; None without one.
        batch: number of the batch.
    """

    inputs: Tensor
    target: Tensor
    dense: Tensor | None = None
    batch: int = 0

    @staticmethod
    def of(inputs: Tensor, target: Tensor, dense: Tensor | None = None, batch: int = 0) -> Rows:
        """Rows in single precision at least: sums over samples lose everything in half precision."""
        return Rows(_single(inputs), _single(target), None if dense is None else _single(dense), batch)


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.element_size() < 4 else tensor


def is_held_back(batch: int) -> bool:
    """Is a batch of that number held back?"""
    return batch % HOLD_BACK_ONE_IN == HOLD_BACK_ONE_IN - 1


class Parts:
    """Moments of the batches that are fitted on and of those held back.

    Args:
        product_dtype: precision of the products within a batch.
    """

    def __init__(self, product_dtype: torch.dtype) -> None:
        self._dtype = product_dtype
        self._number = 0
        self._parts: list[CrossMoments | None] = [None, None]

    def add(self, batches: Iterable[Rows]) -> None:
        """Some more batches."""
        for rows in batches:
            which = int(is_held_back(self._number))
            total, part = self._parts[which], CrossMoments.of(rows.inputs, rows.target, self._dtype)
            self._parts[which] = part if total is None else total + part
            self._number += 1

    def summed(self, sums: Sums) -> tuple[CrossMoments, CrossMoments]:
        """Both, of all processes. They reduce the same tensors, whether or not each has batches to hold back."""
        first, second = self._parts
        assert first is not None
        return sums.cross_moments(first), sums.cross_moments(first.zeros_like() if second is None else second)
