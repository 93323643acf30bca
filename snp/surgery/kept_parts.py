"""What does a plan leave of one tensor?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from snp.graph.grouped_kernels import without_columns
from snp.plan.plan import PruningPlan

__all__ = ["kept_part", "removed_of", "without"]


def kept_part(tensor: Tensor, name: str, plan: PruningPlan) -> Tensor:
    """What a plan leaves of a dense network's tensor; the tensor itself where it loses nothing."""
    dims = removed_of(plan).get(name)
    return without(tensor, dims, name, plan.blocks()) if dims else tensor


def removed_of(plan: PruningPlan) -> dict[str, dict[int, Tensor]]:
    """Tensors that lose something -> dimensions, and the indices there."""
    found: dict[str, dict[int, Tensor]] = {}
    for (name, dim), indices in plan.removed().items():
        if len(indices):
            found.setdefault(name, {})[dim] = indices
    return found


def without(tensor: Tensor, dims: Mapping[int, Tensor], name: str, num_blocks: Mapping[tuple[str, int], int]) -> Tensor:
    """A tensor without indices of some dimensions, by the number of blocks that a dimension is written in.

    Raises:
        ValueError: it has no such dimension or index.
    """
    value = tensor.detach()
    # Columns first: where the rows of a block end is known as long as no row is gone.
    for dim, removed in sorted(dims.items(), reverse=True):
        blocks = num_blocks.get((name, dim), 1)
        if dim >= value.ndim or int(removed.max()) >= value.shape[dim] * blocks:
            raise ValueError(f"the plan does not fit {name} of shape {tuple(tensor.shape)}: made for another model")
        if blocks > 1:
            value = without_columns(value, removed, blocks)
            continue
        is_kept = torch.ones(value.shape[dim], dtype=torch.bool)
        is_kept[removed] = False
        value = value.index_select(dim, is_kept.nonzero().flatten().to(value.device))
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(value, requires_grad=tensor.requires_grad)
    return value
