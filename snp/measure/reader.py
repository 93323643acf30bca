"""What is one layer that reads units, and how do its inputs become samples?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from snp.core.outliers import limiting_scale
from snp.graph.grouped_kernels import rows_of, weight_of
from snp.graph.units import Slice
from snp.measure.patches import Patch, sampled_positions

__all__ = ["Block", "Reader"]


@dataclass(frozen=True, eq=False)
class Reader:
    """A convolution or linear layer whose inputs are measured.

    Attributes:
        weight: state-dict name of its weight, shape [O, C, ...], or [C, O, ...] if ``input_dim`` is 0.
        module: name of the module whose code reads the weight.
        channel_dim: dimension of inputs along which channels lie.
        num_columns: size of the Gram matrix.
        shared: input columns that count as positions of one Gram column (49 for a flattened 7 x 7 map of channels
            where the full Gram would be too large, else 1).
        patch: for a patch Gram matrix, whose columns are channel times kernel element; None for channels only.
        most_positions: of larger maps that many positions are samples, the same of every image
            (:func:`snp.measure.patches.sampled_positions`); None for all.
        num_blocks: of a grouped convolution's weight, whose rows see a block of the columns each
            (:mod:`snp.graph.grouped_kernels`).
        input_dim: dimension of the weight along which inputs lie.
        output_channel_dim: dimension of outputs along which channels lie; that of inputs if None.
        by_operator: the operator itself is looked at, because a hook on the module may see something else.
        is_product: every position is read alone, by a matrix.
        is_recurrent: an output depends on what was read at other positions, too.
        is_wide: it makes many more outputs than it has inputs, as the head of a language model does, without a bias.
        is_routed: it reads the tokens that are sent to it, perhaps none: a layer of an expert.
        takes_offset: a constant can be added to what it gives, by a tensor of its own.
        largest_token: energy that one token may have beside the median of its sample; None for any.
    """

    weight: str
    module: str
    channel_dim: int
    num_columns: int
    shared: int = 1
    patch: Patch | None = None
    most_positions: int | None = None
    num_blocks: int = 1
    input_dim: int = 1
    output_channel_dim: int | None = None
    by_operator: bool = False
    is_product: bool = False
    is_recurrent: bool = False
    is_wide: bool = False
    is_routed: bool = False
    takes_offset: bool = False
    largest_token: float | None = None

    def rows(self, weight: Tensor) -> Tensor:
        """The layer's weight, or one of its shape, with outputs as rows, shape [O, C / B, ...]."""
        return rows_of(weight, self.input_dim, self.num_blocks)

    def from_rows(self, rows: Tensor) -> Tensor:
        """Inverse of :meth:`rows`."""
        return weight_of(rows, self.input_dim, self.num_blocks)

    @property
    def output_dim(self) -> int:
        """Dimension of outputs along which channels lie."""
        return self.channel_dim if self.output_channel_dim is None else self.output_channel_dim

    def samples(self, inputs: Tensor) -> Tensor:
        """The layer's inputs as a matrix of samples, shape [N, num_columns]."""
        if self.patch is not None:
            return self.patch.patches(inputs)
        if self.most_positions is not None and self.channel_dim == 1 and inputs.ndim > 2:
            inputs = inputs.flatten(2)
            index = sampled_positions(inputs.shape[2], self.most_positions)
            inputs = inputs if index is None else inputs.index_select(2, index.to(inputs.device))
        rows = inputs.movedim(self.channel_dim, -1).reshape(-1, self.num_columns * self.shared)
        if self.shared == 1:
            return rows
        return rows.reshape(-1, self.num_columns, self.shared).transpose(1, 2).reshape(-1, self.num_columns)

    @property
    def reads_tokens(self) -> bool:
        """Is every position of its inputs one vector that is read alone, channels last?"""
        return self.patch is None and self.channel_dim == -1

    def token_scale(self, vectors: Tensor, counted: Tensor | None = None) -> Tensor | None:
        """Factor of every token that keeps the largest within bounds; None where vectors are no tokens of a sample.

        Args:
            vectors: what the layer reads or gives out, shape [N, ..., C].
            counted: which tokens are no padding, shape [N, ...].
        """
        if self.largest_token is None or not self.reads_tokens or self.shared > 1 or vectors.ndim < 3:
            return None
        return limiting_scale(vectors, self.largest_token, counted)

    def blocks(self, kept: Tensor) -> list[Block]:
        """The parts that are fitted alone, each with its share of the kept columns; one for a plain layer."""
        size = self.num_columns // self.num_blocks
        alone = replace(self, num_columns=size, num_blocks=1)
        starts = range(0, self.num_columns, size)
        return [
            Block(slice(start, start + size), kept[(kept >= start) & (kept < start + size)] - start, alone)
            for start in starts
        ]

    def behind_padding(self) -> Reader:
        """The same reader of what its convolution gets, where the layer pads its input by an operator of its own."""
        return self if self.patch is None else replace(self, patch=self.patch.behind_padding())

    @property
    def sampling(self) -> tuple[object, ...]:
        """Readers of one tensor with equal values here see the same samples."""
        geometry = None if self.patch is None else self.patch.geometry
        return self.channel_dim, self.shared, self.num_blocks, self.most_positions, geometry, self.largest_token

    @property
    def fits_outputs(self) -> bool:
        """Is an output the product of one sample and the weight, so that outputs can be fitted directly?"""
        reads_rows = self.shared == 1 and (self.is_product or self.channel_dim == -1)
        return self.patch is not None or (reads_rows and not self.is_recurrent)

    def outputs(self, values: Tensor) -> Tensor:
        """The layer's outputs at the positions of :meth:`samples`, shape [N, O]; only where :attr:`fits_outputs`."""
        assert self.fits_outputs
        if self.patch is not None:
            return self.patch.rows(values.flatten(2))
        return values.movedim(self.output_dim, -1).reshape(-1, values.shape[self.output_dim])

    def columns(self, member: Slice) -> Tensor:
        """Gram columns of a group's units, shape [U, b]."""
        if self.shared > 1:
            return member.index[:, :1] // self.shared
        if self.patch is None or self.patch.size == 1:
            return member.index
        return (member.index[:, :, None] * self.patch.size + torch.arange(self.patch.size)).flatten(1)


@dataclass(frozen=True, eq=False)
class Block:
    """A block of a grouped convolution: as many of the weight's rows, which see these columns only.

    Attributes:
        columns: of the whole reader's Gram matrix.
        kept: columns that stay, counted inside the block, ascending.
        reader: reads the block's channels alone.
    """

    columns: slice
    kept: Tensor
    reader: Reader
