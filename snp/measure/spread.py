"""How far do an output's values spread, and which of them say nothing?

Neither what a network gives out for padding, which nobody asks for, nor what stands for "never".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from snp.graph.batches import Batch

__all__ = ["is_masked", "variance_of", "without_padding"]

# Variance beside the mean square under which a channel is constant, and says nothing of its own spread.
_CONSTANT = 1e-10


def is_masked(values: Tensor) -> Tensor:
    """Where outputs stand for "never": infinite, or nearly the largest numbers that there are (``torch.finfo.min``).

    Args:
        values: of the dense network, floating, any shape.
    """
    largest = min(torch.finfo(values.dtype).max, torch.finfo(torch.float32).max)
    return values.detach().abs() > largest / 2


def without_padding(values: Tensor, batch: Batch) -> Tensor:
    """Outputs of tokens that are no padding, [N, T, ...] -> [1, M, ...]; all others as they are.

    What a network gives out for padding, nobody asks for.
    """
    counted = batch.counted(values.shape[:2]) if values.ndim > 2 else None
    return values if counted is None else values.flatten(0, 1)[counted.to(values.device)][None]


def variance_of(values: Sequence[Tensor], channel_dim: int | None) -> Tensor:
    """Per channel, over samples and positions; of constant ones that of the others, or else their mean square.

    What is masked is left out, in all channels, whether or not one has anything else.
    """
    if channel_dim is None or len({value.shape[channel_dim] for value in values}) > 1:
        rows = torch.cat([value.detach().reshape(-1) for value in values])[None]
    else:
        rows = torch.cat([value.detach().movedim(channel_dim, 0).flatten(1) for value in values], dim=1)
    counted = ~(is_masked(rows) | rows.isnan())
    rows, number = rows.double().where(counted, 0.0), counted.sum(dim=1)
    square = rows.square().sum(dim=1) / number.clamp(min=1)
    mean = rows.sum(dim=1) / number.clamp(min=1)
    found = (rows - mean[:, None]).where(counted, 0.0).square().sum(dim=1) / number.clamp(min=1)
    is_constant = found <= _CONSTANT * square
    whole = float(found[~is_constant].mean()) if bool((~is_constant).any()) else float(square.mean())
    return torch.where(is_constant, whole or 1.0, found)
