"""What are the samples of a layer's fit, and which of them are held back while its ridge is chosen?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from snp.core.gram import CrossMoments
from snp.core.sums import Sums
from snp.graph.batch_form import by_kind
from snp.graph.batches import Batch

__all__ = ["Base", "Parts", "Rows", "batch_size_for", "equal_batches", "is_held_back"]

# One batch in so many is held back while the ridge is chosen.
HOLD_BACK_ONE_IN = 4
_LARGEST_BATCH = 128


@dataclass(frozen=True, eq=False)
class Rows:
    """Samples of one batch.

    Attributes:
        inputs: shape [N, K].
        target: what the layer should give out without its bias, shape [N, O].
        dense: pre-activations of the dense network at a rectifier behind the layer, shape [N, O]; None without one.
        batch: number of the batch.
        scale: factor of every sample, shape [N], that keeps large ones within bounds; None for one.
    """

    inputs: Tensor
    target: Tensor
    dense: Tensor | None = None
    batch: int = 0
    scale: Tensor | None = None

    @staticmethod
    def of(inputs: Tensor, target: Tensor, dense: Tensor | None = None, batch: int = 0) -> Rows:
        """Rows in single precision at least: sums over samples lose everything in half precision."""
        return Rows(_single(inputs), _single(target), None if dense is None else _single(dense), batch)

    def scaled(self, values: Tensor) -> Tensor:
        """Values [N, ...] of the samples times their factors."""
        return values if self.scale is None else values * self.scale[:, None].to(values)


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.element_size() < 4 else tensor


def batch_size_for(num_samples: int) -> int:
    """Of what is fitted in sequence: at least four batches, so that one in four can be held back."""
    return max(1, min(_LARGEST_BATCH, num_samples // HOLD_BACK_ONE_IN))


def equal_batches(batches: Sequence[Batch], largest: int) -> list[Batch]:
    """The same samples in batches of one size: the largest divisor of their number that is at most ``largest``.

    A size under a quarter of ``largest`` drops the samples that do not fill the last batch instead. Of samples of
    several shapes (images of several sizes, texts of several lengths) those of the most frequent one are taken: the
    two networks run as a graph of fixed shapes.
    """
    joined = Batch.joined(max(by_kind(batches), key=lambda alike: sum(batch.size for batch in alike)))
    total = joined.size
    size = max(divisor for divisor in range(1, min(largest, total) + 1) if total % divisor == 0)
    if size * 4 < min(largest, total):
        size = min(largest, total)
    return [batch for batch in joined.split(size) if batch.size == size]


def is_held_back(batch: int) -> bool:
    """Is a batch of that number held back?"""
    return batch % HOLD_BACK_ONE_IN == HOLD_BACK_ONE_IN - 1


@dataclass(frozen=True, eq=False)
class Base:
    """What a fit changes, and what it is computed beside: rounding is then relative to changes, not to a large mean.

    Attributes:
        weight: dense weights of the kept columns, shape [O, K].
        inputs: centre of the inputs, shape [K]; zeros where no offset is fitted.
        rest: centre of what the dense weights leave of the targets, shape [O]; likewise.
    """

    weight: Tensor
    inputs: Tensor
    rest: Tensor

    @staticmethod
    def of(weight: Tensor, rows: Rows, sums: Sums, *, affine: bool) -> Base:
        """Centred on the mean of some rows of all processes."""
        weight = weight.detach().to(rows.inputs)
        base = Base(weight, torch.zeros_like(weight[0]), torch.zeros_like(weight[:, 0]))
        if not affine:
            return base
        count = max(sums.number(len(rows.inputs)), 1.0)
        inputs, rest = (
            sums.of(part.sum(dim=0, dtype=torch.float64)) / count for part in (rows.inputs, base.rest_of(rows))
        )
        return Base(weight, inputs.to(weight), rest.to(weight))

    def rest_of(self, rows: Rows) -> Tensor:
        """What the dense weights leave of the targets, shape [N, O]."""
        return rows.target - rows.inputs @ self.weight.T

    def centred(self, inputs: Tensor) -> Tensor:
        """Inputs beside their centre, shape [N, K]."""
        return inputs - self.inputs

    def unchanged(self) -> tuple[Tensor, Tensor]:
        """The dense weights, and no offset."""
        return self.weight.double(), torch.zeros_like(self.rest, dtype=torch.float64)

    def changed(self, weight: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and offset, from a change of the weights and an offset that were fitted beside the centres."""
        return self.weight.double() + weight, shift + self.rest.double() - weight @ self.inputs.double()


class Parts:
    """Moments of the batches that are fitted on and of those held back.

    Args:
        base: what is fitted beside.
        product_dtype: precision of the products within a batch.

    Attributes:
        unfitted: squared error of the dense weights on both, shape [2], float64.
    """

    def __init__(self, base: Base, product_dtype: torch.dtype) -> None:
        self.base = base
        self.unfitted = torch.zeros(2, dtype=torch.float64, device=base.weight.device)
        self._dtype = product_dtype
        self._number = 0
        self._parts: list[CrossMoments | None] = [None, None]

    def add(self, batches: Iterable[Rows]) -> None:
        """Some more batches."""
        for rows in batches:
            which = int(is_held_back(self._number))
            rest = self.base.rest_of(rows)
            self.unfitted[which] += rows.scaled(rest).square().sum(dtype=torch.float64)
            inputs, target = rows.scaled(self.base.centred(rows.inputs)), rows.scaled(rest - self.base.rest)
            moments = CrossMoments.of(inputs, target, self._dtype)
            total, part = self._parts[which], moments
            self._parts[which] = part if total is None else total + part
            self._number += 1

    def summed(self, sums: Sums) -> tuple[CrossMoments, CrossMoments]:
        """Both, of all processes. They reduce the same tensors, whether or not each has batches to hold back."""
        first, second = self._parts
        assert first is not None
        return sums.cross_moments(first), sums.cross_moments(first.zeros_like() if second is None else second)
