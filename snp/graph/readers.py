"""What is measured at each layer that reads prunable units?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snp.graph.analysis import CouplingGraph
from snp.units import Slice, UnitGroup, module_of

__all__ = ["Patch", "Reader", "other_readers", "readers_of"]

# Beyond this many columns a Gram matrix is not formed: positions count as samples, not as columns.
_LARGEST_GRAM = 8192
# Of every image at least so many positions of a patch Gram are sampled; more for more columns.
_FEWEST_POSITIONS = 64


@dataclass(frozen=True, eq=False)
class Patch:
    """Geometry of a two-dimensional convolution, and the output positions that are sampled.

    Attributes:
        kernel: height and width.
        stride: of both dimensions.
        padding: zeros on both sides of both dimensions.
        dilation: of both dimensions.
        positions: sampled output positions, row by row, ascending; None for all. The same for every image, so that
            sums do not depend on how the data are split.
        num_positions: how many there are where the layer is read as in the analysis; an input of another size, or of
            a layer that is read at several sizes, is not sampled.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    positions: Tensor | None
    num_positions: int

    @property
    def size(self) -> int:
        """Number of kernel elements."""
        return self.kernel[0] * self.kernel[1]

    def rows(self, values: Tensor) -> Tensor:
        """Values [N, C, L] at the sampled positions as rows, shape [N * P, C]."""
        if self.positions is not None and values.shape[2] == self.num_positions:
            values = values.index_select(2, self.positions.to(values.device))
        return values.transpose(1, 2).reshape(-1, values.shape[1])

    def patches(self, inputs: Tensor) -> Tensor:
        """What the kernel sees at each sampled position, shape [N * P, C * kernel elements]."""
        if self.kernel == (1, 1) and self.padding == (0, 0):
            return self.rows(inputs[:, :, :: self.stride[0], :: self.stride[1]].flatten(2))
        columns = F.unfold(inputs, self.kernel, dilation=self.dilation, padding=self.padding, stride=self.stride)
        return self.rows(columns)


@dataclass(frozen=True, eq=False)
class Reader:
    """A convolution or linear layer whose inputs are measured.

    Attributes:
        weight: state-dict name of its weight, shape [O, C, ...].
        module: name of the module that owns the weight; a hook there sees the inputs.
        channel_dim: dimension of inputs and outputs along which channels lie.
        num_columns: size of the Gram matrix.
        shared: input columns that count as positions of one Gram column (49 for a flattened 7 x 7 map of channels
            where the full Gram would be too large, else 1).
        patch: for a patch Gram matrix, whose columns are channel times kernel element; None for channels only.
    """

    weight: str
    module: str
    channel_dim: int
    num_columns: int
    shared: int = 1
    patch: Patch | None = None

    def samples(self, inputs: Tensor) -> Tensor:
        """The layer's inputs as a matrix of samples, shape [N, num_columns]."""
        if self.patch is not None:
            return self.patch.patches(inputs)
        rows = inputs.movedim(self.channel_dim, -1).reshape(-1, self.num_columns * self.shared)
        if self.shared == 1:
            return rows
        return rows.reshape(-1, self.num_columns, self.shared).transpose(1, 2).reshape(-1, self.num_columns)

    @property
    def sampling(self) -> tuple[object, ...]:
        """Readers of one tensor with equal values here see the same samples."""
        patch = self.patch
        geometry = None if patch is None else (patch.kernel, patch.stride, patch.padding, patch.dilation)
        return self.channel_dim, self.shared, geometry

    @property
    def fits_outputs(self) -> bool:
        """Is an output the product of one sample and the weight, so that outputs can be fitted directly?"""
        return self.patch is not None or (self.channel_dim == -1 and self.shared == 1)

    def outputs(self, values: Tensor) -> Tensor:
        """The layer's outputs at the positions of :meth:`samples`, shape [N, O]; only where :attr:`fits_outputs`."""
        assert self.fits_outputs
        if self.patch is not None:
            return self.patch.rows(values.flatten(2))
        return values.reshape(-1, values.shape[-1])

    def columns(self, member: Slice) -> Tensor:
        """Gram columns of a group's units, shape [U, b]."""
        if self.shared > 1:
            return member.index[:, :1] // self.shared
        if self.patch is None or self.patch.size == 1:
            return member.index
        return (member.index[:, :, None] * self.patch.size + torch.arange(self.patch.size)).flatten(1)


def readers_of(
    model: nn.Module, graph: CouplingGraph, groups: Iterable[UnitGroup], conv_gram: str = "channel"
) -> dict[str, Reader]:
    """Readers of all consumers of the groups, by weight name, in a fixed order.

    Args:
        model: owns the weights.
        graph: knows how many positions each weight is read at.
        groups: the groups that take part.
        conv_gram: ``"patch"`` measures what convolutions' kernels see, ``"channel"`` channels at all positions.
    """
    readers: dict[str, Reader] = {}
    for group in groups:
        for member in group.consumers:
            if member.tensor not in readers:
                module = model.get_submodule(module_of(member.tensor))
                patch = _patch(module, graph.positions[member.tensor]) if conv_gram == "patch" else None
                readers[member.tensor] = _reader(member, module, patch)
    return readers


def other_readers(
    model: nn.Module, graph: CouplingGraph, readers: Mapping[str, Reader], conv_gram: str
) -> dict[str, Reader]:
    """Readers of all further convolutions and linear layers that are fitted by their outputs."""
    found: dict[str, Reader] = {}
    for name, num_positions in graph.positions.items():
        module: Any = model.get_submodule(module_of(name))
        if name in readers or getattr(module, "weight", None) is None or getattr(module, "groups", 1) > 1:
            continue
        if isinstance(module, nn.Linear) and module.in_features <= _LARGEST_GRAM:
            found[name] = Reader(name, module_of(name), -1, module.in_features)
        elif conv_gram == "patch" and (patch := _patch(module, num_positions)) is not None:
            found[name] = Reader(name, module_of(name), 1, module.weight.shape[1] * patch.size, patch=patch)
    return found


def _reader(member: Slice, module: nn.Module, patch: Patch | None) -> Reader:
    weight = module.weight
    assert isinstance(weight, Tensor)
    num_columns = weight.shape[1]
    if patch is not None:
        return Reader(member.tensor, module_of(member.tensor), 1, num_columns * patch.size, patch=patch)
    width = member.width
    covers = member.index.numel() == num_columns and torch.equal(member.index.reshape(-1), torch.arange(num_columns))
    shared = width if num_columns > _LARGEST_GRAM and width > 1 and covers else 1
    channel_dim = -1 if weight.ndim == 2 else 1
    return Reader(member.tensor, module_of(member.tensor), channel_dim, num_columns // shared, shared)


def _patch(module: nn.Module, num_positions: int) -> Patch | None:
    """Geometry of a plain two-dimensional convolution whose patch Gram is not too large, else None."""
    if type(module).forward is not nn.Conv2d.forward or not isinstance(module, nn.Conv2d):
        return None
    padding = module.padding
    num_columns = module.weight.shape[1] * module.weight[0, 0].numel()
    if isinstance(padding, str) or module.padding_mode != "zeros" or num_columns > _LARGEST_GRAM:
        return None
    wanted = max(_FEWEST_POSITIONS, num_columns // 16)
    positions = None
    if wanted < num_positions:
        generator = torch.Generator().manual_seed(num_positions)
        positions = torch.randperm(num_positions, generator=generator)[:wanted].sort().values
    kernel, stride, dilation = (_pair(v) for v in (module.kernel_size, module.stride, module.dilation))
    return Patch(kernel, stride, _pair(padding), dilation, positions, num_positions)


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return values[0], values[1]
