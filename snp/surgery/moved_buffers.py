"""Which values do buffers have that the network's own passes move, a counter or a running mean, after a prune?

Those that they had when the network was given: the passes of a prune are none of its user's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from snp.plan.plan import PruningPlan
from snp.surgery.kept_parts import kept_part
from snp.surgery.surgery import named_tensors, put

__all__ = ["with_given_buffers"]


def with_given_buffers(small: nn.Module, dense: nn.Module, given: Mapping[str, Tensor], plan: PruningPlan) -> nn.Module:
    """Give buffers that moved since the network was given their values again.

    Args:
        small: changed in place.
        dense: the network that the passes went through.
        given: buffers as they were before, by name.
        plan: what of them stays.

    Returns:
        ``small``.
    """
    now, there = dict(dense.named_buffers(remove_duplicate=False)), named_tensors(small)
    for name, before in given.items():
        after = now.get(name)
        if after is None or name not in there or after.shape != before.shape or torch.equal(before, after):
            continue
        value = kept_part(before, name, plan).to(there[name])
        put(small, name, value.clone() if value is before else value)
    return small
