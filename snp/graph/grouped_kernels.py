"""How does the kernel of a grouped convolution lie in memory?

The groups of a convolution are called blocks here, because a group is what is cut together. A kernel of B blocks has
shape [O, I / B, ...]: its rows fall into B blocks of O / B, and column c of the rows of block b reads input
b * I / B + c. Seen over all inputs it is a block-diagonal matrix. The kernel of a transposed convolution has shape
[I, O / B, ...], and the same holds with inputs and outputs exchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["contracted", "expanded", "rows_of", "weight_of", "without_columns"]


def rows_of(weight: Tensor, input_dim: int, num_blocks: int = 1) -> Tensor:
    """The weight as a layer that computes the same channels has it whose rows are outputs.

    Args:
        weight: shape [O, I / B, ...], or [I, O / B, ...] if ``input_dim`` is 0.
        input_dim: 1 or 0.
        num_blocks: B.

    Returns:
        Shape [O, I / B, ...].
    """
    return weight if input_dim == 1 else _exchanged(weight, num_blocks)


def weight_of(rows: Tensor, input_dim: int, num_blocks: int = 1) -> Tensor:
    """Inverse of :func:`rows_of`."""
    return rows if input_dim == 1 else _exchanged(rows, num_blocks)


def _exchanged(weight: Tensor, num_blocks: int) -> Tensor:
    """Rows and columns of each block exchanged: [I, O / B, ...] -> [O, I / B, ...]."""
    blocks = weight.reshape(num_blocks, weight.shape[0] // num_blocks, *weight.shape[1:]).transpose(1, 2)
    return blocks.reshape(-1, *blocks.shape[2:])


def expanded(weight: Tensor, num_blocks: int) -> Tensor:
    """The kernel over all inputs, zero outside its blocks: [O, I / B, ...] -> [O, I, ...]."""
    if num_blocks == 1:
        return weight
    rows, columns = weight.shape[0] // num_blocks, weight.shape[1]
    result = weight.new_zeros(weight.shape[0], columns * num_blocks, *weight.shape[2:])
    for block in range(num_blocks):
        part = slice(block * rows, (block + 1) * rows)
        result[part, block * columns : (block + 1) * columns] = weight[part]
    return result


def contracted(weight: Tensor, num_blocks: int) -> Tensor:
    """Inverse of :func:`expanded`; what lies outside the blocks is dropped."""
    if num_blocks == 1:
        return weight
    rows, columns = weight.shape[0] // num_blocks, weight.shape[1] // num_blocks
    parts = [
        weight[block * rows : (block + 1) * rows, block * columns : (block + 1) * columns]
        for block in range(num_blocks)
    ]
    return torch.cat(parts)


def without_columns(weight: Tensor, removed: Tensor, num_blocks: int) -> Tensor:
    """The kernel without some columns, as many of each block: [O, I / B, ...] -> [O, (I - R) / B, ...].

    Args:
        weight: grouped kernel.
        removed: indices among the I columns of all blocks, shape [R].
        num_blocks: B.

    Raises:
        ValueError: the blocks lose unequal numbers.
    """
    rows, columns = weight.shape[0] // num_blocks, weight.shape[1]
    is_kept = torch.ones(num_blocks, columns, dtype=torch.bool)
    is_kept.view(-1)[removed.cpu()] = False
    if len(set(is_kept.sum(dim=1).tolist())) > 1:
        raise ValueError(f"a convolution of {num_blocks} groups must lose equally many channels in each")
    parts = [
        part.index_select(1, kept.nonzero().flatten().to(weight.device))
        for part, kept in zip(weight.split(rows), is_kept, strict=True)
    ]
    return torch.cat(parts)
