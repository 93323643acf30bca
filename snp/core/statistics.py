"""What may be looked at when the units of a group are put in order?  Of all its readers together, and one by one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["GroupStatistics", "ReaderStatistics"]


@dataclass(frozen=True)
class ReaderStatistics:
    """What one consumer does with a group.

    Attributes:
        gram: Gram matrix of the columns it reads, a unit's b columns side by side, shape [U * b, U * b], float64.
        weighted: its weights, outputs scaled so that a squared error counts as much as the network's output moves
            with it (plain weights where that was not measured), shape [O, U * b], float64.
        columns_per_unit: b.
    """

    gram: Tensor
    weighted: Tensor
    columns_per_unit: int

    @property
    def num_units(self) -> int:
        """Number of units U of the group."""
        return self.gram.shape[0] // self.columns_per_unit


@dataclass(frozen=True)
class GroupStatistics:
    """What an ordering may look at.

    Attributes:
        gram: Gram matrix of the group's columns, a unit's b columns side by side, shape [U * b, U * b], float64.
        outgoing: weights that read the group, shape [O, U * b], outputs of all consumers stacked.
        columns_per_unit: b.
        generator: the only source of randomness.
        readers: the consumers one by one.
    """

    gram: Tensor
    outgoing: Tensor
    columns_per_unit: int
    generator: torch.Generator
    readers: tuple[ReaderStatistics, ...] = ()

    @property
    def num_units(self) -> int:
        """Number of units U of the group."""
        return self.gram.shape[0] // self.columns_per_unit
