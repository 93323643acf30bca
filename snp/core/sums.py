"""How does a sum over samples become one over all processes?  Here there is one process, and nothing is to be added."""

from __future__ import annotations

import torch
from torch import Tensor

from snp.core.gram import CrossMoments, Moments

__all__ = ["ALONE", "Sums"]


class Sums:
    """Sums over the samples of one process; a subclass whose :meth:`of` adds up over several serves them all."""

    def of(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, on the tensor's device."""
        return tensor

    @property
    def num_processes(self) -> int:
        """How many there are."""
        return int(self.number(1))

    def number(self, value: float) -> float:
        """The sum of a number over all processes."""
        return float(self.of(torch.tensor(float(value), dtype=torch.float64)))

    def moments(self, part: Moments) -> Moments:
        """Moments of the samples of all processes."""
        count = int(self.number(part.count))
        return Moments(self.of(part.second), self.of(part.first), count)

    def cross_moments(self, part: CrossMoments) -> CrossMoments:
        """The same of inputs and targets."""
        return CrossMoments(self.moments(part.inputs), self.of(part.cross), self.of(part.target), self.of(part.energy))


ALONE = Sums()
