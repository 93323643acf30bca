"""What is measured at each layer that reads prunable units?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from snp.units import Slice, UnitGroup, module_of

__all__ = ["Reader", "readers_of"]

# Beyond this many columns a flattened input is measured with its positions as samples, not as columns.
_LARGEST_GRAM = 8192


@dataclass(frozen=True, eq=False)
class Reader:
    """A convolution or linear layer whose inputs are measured.

    Attributes:
        weight: state-dict name of its weight, shape [O, C, ...].
        module: name of the module that owns the weight; a hook there sees the inputs.
        channel_dim: dimension of the input along which the C columns lie.
        num_columns: size of the Gram matrix.
        shared: input columns that count as positions of one Gram column (49 for a flattened 7 x 7 map of channels
            where the full Gram would be too large, else 1).
    """

    weight: str
    module: str
    channel_dim: int
    num_columns: int
    shared: int = 1

    def samples(self, inputs: Tensor) -> Tensor:
        """The layer's inputs as a matrix of samples, shape [N, num_columns]."""
        rows = inputs.movedim(self.channel_dim, -1).reshape(-1, self.num_columns * self.shared)
        if self.shared == 1:
            return rows
        return rows.reshape(-1, self.num_columns, self.shared).transpose(1, 2).reshape(-1, self.num_columns)

    def columns(self, member: Slice) -> Tensor:
        """Gram columns of a group's units, shape [U, b]."""
        if self.shared == 1:
            return member.index
        return member.index[:, :1] // self.shared


def readers_of(model: nn.Module, groups: Iterable[UnitGroup]) -> dict[str, Reader]:
    """Readers of all consumers of the groups, by weight name, in a fixed order."""
    readers: dict[str, Reader] = {}
    for group in groups:
        for member in group.consumers:
            if member.tensor not in readers:
                module = model.get_submodule(module_of(member.tensor))
                readers[member.tensor] = _reader(member, module)
    return readers


def _reader(member: Slice, module: nn.Module) -> Reader:
    weight = module.weight
    assert isinstance(weight, Tensor)
    is_linear = weight.ndim == 2
    num_columns = weight.shape[1]
    width = member.width
    covers = member.index.numel() == num_columns and torch.equal(member.index.reshape(-1), torch.arange(num_columns))
    shared = width if num_columns > _LARGEST_GRAM and width > 1 and covers else 1
    return Reader(member.tensor, module_of(member.tensor), -1 if is_linear else 1, num_columns // shared, shared)
