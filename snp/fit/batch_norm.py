"""Which statistics does a normalisation layer see in the changed network?"""

from __future__ import annotations

import torch
from torch import fx

from snp.fit.two_networks import TwoNetworks

__all__ = ["is_norm", "reestimate"]

_FEWEST = 64  # positions of all samples; fewer say too little of a variance


def is_norm(node: fx.Node) -> bool:
    """Is this the call of a layer that normalises by statistics of its own?"""
    return "batch_norm" in str(node.target)


def reestimate(networks: TwoNetworks, node: fx.Node) -> None:
    """Statistics of a normalisation layer over all positions of all batches of the changed network."""
    source = node.args[0]
    names = [networks.name_of(argument) for argument in node.args[3:5]]
    if not isinstance(source, fx.Node) or not networks.differs(source):
        return
    if any(name is None or networks.num_reads(name) > 1 for name in names):
        return
    rows = [values.movedim(1, 0).flatten(1).double() for values in networks.current[source]]
    sums = networks.sums
    count = sums.number(sum(part.shape[1] for part in rows))
    if count < _FEWEST:
        return
    mean = sums.of(torch.stack([part.sum(dim=1) for part in rows]).sum(dim=0)) / count
    square = sums.of(torch.stack([part.square().sum(dim=1) for part in rows]).sum(dim=0)) / count
    for name, value in zip(names, (mean, (square - mean.square()).clamp_min(0)), strict=True):
        assert name is not None
        networks.change(name, value)
