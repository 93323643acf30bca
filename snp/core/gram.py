"""How do activations become moments that can be summed over batches, machines and runs?

House letters: N samples, C input columns of a consumer, U units, K kept columns, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["NOT_FINITE", "CrossMoments", "Moments", "partial_trace", "select_columns"]

NOT_FINITE = "activations hold NaN or infinite values: check the model's weights and the input scaling"
# Rows turned into float64 at a time: bounds the memory of the conversion, not the result.
_CHUNK_ROWS = 65536


@dataclass(frozen=True)
class Moments:
    """Uncentred sums over N samples of the C inputs of one consumer; merging two parts of the data is ``+``.

    Attributes:
        second: Gram matrix X X^T, shape [C, C], float64.
        first: sum of the samples, shape [C], float64.
        count: number of samples N (positions count as samples for convolutions and tokens).
    """

    second: Tensor
    first: Tensor
    count: int

    @staticmethod
    def zeros(num_columns: int, device: torch.device | str = "cpu") -> Moments:
        """Moments of no samples: the neutral element of ``+``."""
        second = torch.zeros(num_columns, num_columns, dtype=torch.float64, device=device)
        return Moments(second, torch.zeros(num_columns, dtype=torch.float64, device=device), 0)

    @staticmethod
    def of(samples_NC: Tensor, product_dtype: torch.dtype = torch.float64) -> Moments:
        """Moments of a matrix of samples.

        Args:
            samples_NC: any floating dtype, shape [N, C].
            product_dtype: precision of the products inside a chunk of rows; the sums are float64 in any case.
                float32 is faster where float64 arithmetic is slow, and repeats only to about 1e-6.

        Raises:
            ValueError: the samples hold NaN or infinity.
        """
        assert samples_NC.ndim == 2, samples_NC.shape
        total = Moments.zeros(samples_NC.shape[1], samples_NC.device)
        for chunk in samples_NC.split(_CHUNK_ROWS):
            rows = chunk.to(product_dtype)
            total = total + Moments((rows.T @ rows).double(), rows.sum(dim=0).double(), len(rows))
        if not bool(torch.isfinite(total.second.diagonal()).all()):
            raise ValueError(NOT_FINITE)
        return total

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.second + other.second, self.first + other.first, self.count + other.count)

    def to(self, device: torch.device) -> Moments:
        """The same moments on a device."""
        return Moments(self.second.to(device), self.first.to(device), self.count)

    def cpu(self) -> Moments:
        """The same moments in main memory."""
        return self.to(torch.device("cpu"))

    def centred(self) -> Tensor:
        """Gram matrix of the samples minus their mean, shape [C, C]; zero when there are no samples."""
        return self.second - torch.outer(self.first, self.first) / max(self.count, 1)

    def mean(self) -> Tensor:
        """Mean sample, shape [C]."""
        return self.first / max(self.count, 1)


@dataclass(frozen=True)
class CrossMoments:
    """Sums over N samples of what one consumer reads and of what it should give out; merging is ``+``.

    Attributes:
        inputs: moments of the K inputs that are left.
        cross: target Z^T, shape [O, K], float64.
        target: sum of the targets, shape [O], float64.
        energy: sum of the squared targets, shape [O], float64.
    """

    inputs: Moments
    cross: Tensor
    target: Tensor
    energy: Tensor

    @staticmethod
    def of(inputs_NK: Tensor, target_NO: Tensor, product_dtype: torch.dtype = torch.float64) -> CrossMoments:
        """Moments of inputs and targets sample by sample.

        Raises:
            ValueError: the inputs hold NaN or infinity.
        """
        inputs = Moments.of(inputs_NK, product_dtype)
        cross = torch.zeros(target_NO.shape[1], inputs_NK.shape[1], dtype=torch.float64, device=inputs_NK.device)
        target, energy = cross.new_zeros(len(cross)), cross.new_zeros(len(cross))
        for rows, wanted in zip(inputs_NK.split(_CHUNK_ROWS), target_NO.split(_CHUNK_ROWS), strict=True):
            wanted = wanted.to(product_dtype)
            cross += (wanted.T @ rows.to(product_dtype)).double()
            target += wanted.sum(dim=0).double()
            energy += wanted.square().sum(dim=0).double()
        return CrossMoments(inputs, cross, target, energy)

    def zeros_like(self) -> CrossMoments:
        """Moments of no samples of the same inputs and targets."""
        parts = (torch.zeros_like(part) for part in (self.cross, self.target, self.energy))
        return CrossMoments(Moments.zeros(self.cross.shape[1], self.cross.device), *parts)

    def __add__(self, other: CrossMoments) -> CrossMoments:
        inputs, cross = self.inputs + other.inputs, self.cross + other.cross
        return CrossMoments(inputs, cross, self.target + other.target, self.energy + other.energy)

    def centred(self) -> tuple[Tensor, Tensor]:
        """Gram matrix [K, K] and cross moments [O, K] of deviations from the means."""
        count = max(self.inputs.count, 1)
        return self.inputs.centred(), self.cross - torch.outer(self.target, self.inputs.first) / count


def select_columns(gram_CC: Tensor, columns: Tensor) -> Tensor:
    """Gram matrix of some columns, in the order given: [C, C] and [K] -> [K, K]."""
    return gram_CC.index_select(0, columns).index_select(1, columns)


def partial_trace(gram_BB: Tensor, columns_per_unit: int) -> Tensor:
    """Gram matrix of units when each of their columns counts as one more sample.

    Args:
        gram_BB: shape [U * b, U * b], a unit's b columns side by side.
        columns_per_unit: b.

    Returns:
        Shape [U, U]: entry (u, v) is the sum over p of gram[u * b + p, v * b + p].
    """
    num_units = gram_BB.shape[0] // columns_per_unit
    blocks = gram_BB.reshape(num_units, columns_per_unit, num_units, columns_per_unit)
    return blocks.diagonal(dim1=1, dim2=3).sum(dim=-1)
