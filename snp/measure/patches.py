"""What does a convolution's kernel see, and at which positions is it sampled?

A transposed convolution is read as what it equals: zeros are put between its inputs, and its kernel, turned round,
moves over them by single steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LARGEST_GRAM", "Patch", "num_sampled", "patch_of", "sampled_positions"]

# Beyond this many columns a Gram matrix is not formed: positions count as samples, not as columns.
LARGEST_GRAM = 8192
# Of every image at least so many positions are sampled; more for more columns.
_FEWEST_POSITIONS = 64
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)


@dataclass(frozen=True, eq=False)
class Patch:
    """Geometry of a convolution over D dimensions of space, and the output positions that are sampled.

    Attributes:
        kernel: size along each dimension.
        stride: along each dimension.
        padding: what is put in front of and behind each dimension.
        dilation: along each dimension.
        mode: of the padding, as `nn.Conv2d` calls it: ``"zeros"``, ``"circular"``, ``"reflect"``, ``"replicate"``.
        positions: sampled output positions, the last dimension fastest, ascending; None for all. The same for every
            image, so that sums do not depend on how the data are split.
        num_positions: how many there are where the layer is read as in the analysis; an input of another size, or of
            a layer that is read at several sizes, is not sampled.
        apart: for a transposed convolution, its stride: the distance of inputs once zeros are between them. The other
            attributes are those of the convolution that it equals, but for the order of kernel elements.
        wanted: so many positions are sampled of a transposed convolution's outputs, however many these are.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    mode: str
    positions: Tensor | None
    num_positions: int
    apart: tuple[int, ...] = ()
    wanted: int = 0

    @property
    def size(self) -> int:
        """Number of kernel elements."""
        return math.prod(self.kernel)

    @property
    def geometry(self) -> tuple[object, ...]:
        """Patches of one tensor with equal values here are the same."""
        return self.kernel, self.stride, self.padding, self.dilation, self.mode, self.apart

    def behind_padding(self) -> Patch:
        """The same patches of an input that is padded already where the layer pads by an operator of its own.

        Zeros are padded by the convolution itself; every other mode is an operator in front of it.
        """
        return self if self.mode == "zeros" else replace(self, padding=((0, 0),) * len(self.kernel), mode="zeros")

    def rows(self, values: Tensor) -> Tensor:
        """Values [N, C, L] at the sampled positions as rows, shape [N * P, C]."""
        positions = self._at(values.shape[2])
        if positions is not None:
            values = values.index_select(2, positions.to(values.device))
        return values.transpose(1, 2).reshape(-1, values.shape[1])

    def patches(self, inputs: Tensor) -> Tensor:
        """What the kernel sees at each sampled position, shape [N * P, C * kernel elements]."""
        if self.apart:
            whole = replace(self, apart=()).patches(_spread(inputs, self.apart))
            return whole.unflatten(1, (inputs.shape[1], self.size)).flip(2).flatten(1)
        if self.size == 1 and not any(map(any, self.padding)):
            return self.rows(_strided(inputs, self.stride).flatten(2))
        padded = self._padded(inputs)
        outputs = [self._num_outputs(size, axis) for axis, size in enumerate(padded.shape[2:])]
        positions = self._at(math.prod(outputs))
        if positions is None:
            return self._all(padded)
        # Only the sampled patches are copied: unfolding all of them costs more than the product that follows.
        index = self._index(positions, outputs, padded.shape[2:]).to(inputs.device)
        chosen = padded.flatten(2).index_select(2, index.reshape(-1)).reshape(*inputs.shape[:2], *index.shape)
        return chosen.permute(0, 3, 1, 2).reshape(-1, inputs.shape[1] * self.size)

    def _at(self, num_positions: int) -> Tensor | None:
        """The sampled ones of so many output positions; None for all."""
        if self.wanted:
            return sampled_positions(num_positions, self.wanted)
        return self.positions if num_positions == self.num_positions else None

    def _padded(self, inputs: Tensor) -> Tensor:
        widths = [width for pair in reversed(self.padding) for width in pair]  # the last dimension first
        return F.pad(inputs, widths, mode="constant" if self.mode == "zeros" else self.mode)

    def _num_outputs(self, size: int, axis: int) -> int:
        """Output positions along one dimension of a padded input."""
        return (size - self.dilation[axis] * (self.kernel[axis] - 1) - 1) // self.stride[axis] + 1

    def _all(self, padded: Tensor) -> Tensor:
        """Patches at all positions of a padded input."""
        dims, views = len(self.kernel), padded
        for axis, step in enumerate(self.stride):
            views = views.unfold(2 + axis, self.dilation[axis] * (self.kernel[axis] - 1) + 1, step)
        views = _strided(views, self.dilation)
        # [N, C, outputs ..., kernel ...] -> [N, outputs ..., C, kernel ...]
        return views.movedim(1, 1 + dims).reshape(-1, padded.shape[1] * self.size)

    def _index(self, positions: Tensor, outputs: list[int], padded: torch.Size) -> Tensor:
        """Places of every kernel element at every position in a flattened padded map, shape [kernel elements, P]."""
        corner, offset = torch.zeros_like(positions), torch.zeros(1, dtype=torch.int64)
        corners = torch.unravel_index(positions, outputs)
        for axis, size in enumerate(padded):
            corner = corner * size + corners[axis] * self.stride[axis]
            along = torch.arange(self.kernel[axis]) * self.dilation[axis]
            offset = (offset[:, None] * size + along).reshape(-1)
        return offset[:, None] + corner


def patch_of(
    module: nn.Module, num_positions: int, largest: int = LARGEST_GRAM, output_padding: Sequence[int] = ()
) -> Patch | None:
    """Geometry of a plain convolution whose patch Gram is not too large, else None.

    Args:
        module: any.
        num_positions: output positions of a convolution that is not transposed.
        largest: columns of a Gram matrix.
        output_padding: of a transposed convolution as it is called.
    """
    if not isinstance(module, _PLAIN) or not any(type(module).forward is plain.forward for plain in _PLAIN):
        return None
    num_columns = module.in_channels // module.groups * module.weight[0, 0].numel()
    if num_columns > largest:
        return None
    wanted = max(_FEWEST_POSITIONS, num_columns // 16)
    kernel, stride, dilation = tuple(module.kernel_size), tuple(module.stride), tuple(module.dilation)
    if isinstance(module, _TRANSPOSED):
        widths = (width for width, _ in _padding(module))
        reach = [step * (size - 1) - width for step, size, width in zip(dilation, kernel, widths, strict=True)]
        more = tuple(output_padding) or (0,) * len(kernel)
        padding = tuple((width, width + extra) for width, extra in zip(reach, more, strict=True))
        return Patch(kernel, (1,) * len(kernel), padding, dilation, "zeros", None, 0, stride, wanted)
    positions = sampled_positions(num_positions, wanted)
    return Patch(kernel, stride, _padding(module), dilation, module.padding_mode, positions, num_positions)


def num_sampled(num_channels: int) -> int:
    """Positions of every image of which a Gram matrix of so many channels is made at most.

    Neighbours on a map say nearly the same, and products of all of them would cost a quarter of the forward pass.
    """
    return max(_FEWEST_POSITIONS, num_channels // 4)


def sampled_positions(num_positions: int, most: int) -> Tensor | None:
    """So many positions of a map, ascending, the same at every call, so that sums can be split; None for all."""
    if most >= num_positions:
        return None
    generator = torch.Generator().manual_seed(num_positions)
    return torch.randperm(num_positions, generator=generator)[:most].sort().values


def _spread(inputs: Tensor, apart: Sequence[int]) -> Tensor:
    """Inputs [N, C, ...] with zeros between them."""
    sizes = [(size - 1) * step + 1 for size, step in zip(inputs.shape[2:], apart, strict=True)]
    spread = inputs.new_zeros(*inputs.shape[:2], *sizes)
    _strided(spread, tuple(apart)).copy_(inputs)
    return spread


def _strided(values: Tensor, steps: tuple[int, ...]) -> Tensor:
    """Every n-th value along each of the last dimensions, n from ``steps``."""
    for dim, step in enumerate(reversed(steps), start=1):
        values = values.movedim(-dim, 0)[::step].movedim(0, -dim)
    return values


def _padding(module: nn.modules.conv._ConvNd) -> tuple[tuple[int, int], ...]:
    """In front of and behind each dimension; where ``"same"`` is odd, more goes behind, as torch does it."""
    if module.padding == "valid":
        return ((0, 0),) * len(module.kernel_size)
    if module.padding == "same":
        totals = [step * (size - 1) for step, size in zip(module.dilation, module.kernel_size, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((int(width), int(width)) for width in module.padding)
