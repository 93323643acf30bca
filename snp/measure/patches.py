"""What does a convolution's kernel see, and at which positions is it sampled?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LARGEST_GRAM", "Patch", "patch_of"]

# Beyond this many columns a Gram matrix is not formed: positions count as samples, not as columns.
LARGEST_GRAM = 8192
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
        height, width = (self._num_outputs(size, axis) for axis, size in enumerate(inputs.shape[2:]))
        if self.positions is None or height * width != self.num_positions:
            columns = F.unfold(inputs, self.kernel, dilation=self.dilation, padding=self.padding, stride=self.stride)
            return columns.transpose(1, 2).reshape(-1, columns.shape[1])
        # Only the sampled patches are copied: unfolding all of them costs more than the product that follows.
        pad_y, pad_x = self.padding
        padded = F.pad(inputs, (pad_x, pad_x, pad_y, pad_y))
        index = self._index(self.positions, width, padded.shape[3]).to(inputs.device)
        chosen = padded.flatten(2).index_select(2, index.reshape(-1)).reshape(*inputs.shape[:2], *index.shape)
        return chosen.permute(0, 3, 1, 2).reshape(-1, inputs.shape[1] * self.size)

    def _num_outputs(self, size: int, axis: int) -> int:
        reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1
        return (size + 2 * self.padding[axis] - reach) // self.stride[axis] + 1

    def _index(self, positions: Tensor, num_outputs: int, padded_width: int) -> Tensor:
        """Places of every kernel element at every position in a flattened padded map, shape [kernel elements, P]."""
        rows, columns = positions // num_outputs * self.stride[0], positions % num_outputs * self.stride[1]
        down, right = (torch.arange(size) * step for size, step in zip(self.kernel, self.dilation, strict=True))
        return ((rows + down[:, None, None]) * padded_width + columns + right[None, :, None]).flatten(0, 1)


def patch_of(module: nn.Module, num_positions: int, largest: int = LARGEST_GRAM) -> Patch | None:
    """Geometry of a plain two-dimensional convolution whose patch Gram is not too large, else None."""
    if type(module).forward is not nn.Conv2d.forward or not isinstance(module, nn.Conv2d):
        return None
    padding = module.padding
    num_columns = module.weight.shape[1] * module.weight[0, 0].numel()
    if isinstance(padding, str) or module.padding_mode != "zeros" or num_columns > largest:
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
