"""What do batch normalisation statistics become when a pruned network sees the calibration images?"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["has_batch_norm", "reestimated"]


def has_batch_norm(model: nn.Module) -> bool:
    """Is there anything to re-estimate?"""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def reestimated(model: nn.Module, inputs: Iterable[Tensor]) -> nn.Module:
    """A copy whose statistics are plain means over the batches, layers before each one in training mode, too.

    Args:
        model: in evaluation mode; not changed.
        inputs: batches [N, 3, H, W], best of equal size: every batch counts the same.
    """
    changed = copy.deepcopy(model).eval()
    for module in changed.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # a cumulative average instead of a moving one
            module.train()
    with torch.no_grad():
        for batch in inputs:
            changed(batch)
    return changed.eval()
