"""Is a layer's output added to a residual stream, and what is the stream missing in the layer's own units?"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from snp.lockstep import Lockstep

__all__ = ["Tail", "tail_of"]

_IDENTITIES = ("aten.dropout.default", "aten.clone.default", "aten.contiguous.default", "aten.alias.default")
# A channel that the affine chain all but switches off says nothing about what it should have been.
_SMALLEST_SCALE = 1e-3


@dataclass(frozen=True, eq=False)
class Tail:
    """A chain of per-channel scalings from a layer to the addition with a stream.

    Attributes:
        other: the node that the layer's output is added to.
        scale: what the chain multiplies each channel with, shape [O].
        channel_dim: dimension of the channels.
    """

    other: fx.Node
    scale: Tensor
    channel_dim: int

    def missing(self, lockstep: Lockstep, batch: int) -> Tensor:
        """What the layer's output would have to be larger by, to make the sum what it is in the dense network."""
        error = lockstep.dense[self.other][batch] - lockstep.current[self.other][batch]
        shape = [-1 if index == self.channel_dim % error.ndim else 1 for index in range(error.ndim)]
        scale = self.scale.reshape(shape)
        usable = scale.abs() > _SMALLEST_SCALE * self.scale.abs().max()
        return torch.where(usable, error / torch.where(usable, scale, torch.ones_like(scale)), 0.0)


def tail_of(lockstep: Lockstep, node: fx.Node) -> Tail | None:
    """The chain behind a convolution or linear layer, or None where it is not a plain residual branch."""
    channel_dim = -1 if "linear" in str(node.target) else 1
    num_channels = node.meta["val"].shape[channel_dim]
    scale = torch.ones(num_channels, device=node.meta["val"].device)
    at = node
    while len(at.users) == 1:
        user = next(iter(at.users))
        name = str(user.target)
        if name == "aten.batch_norm.default" and user.args[0] is at and lockstep.name_of(user.args[4]) is not None:
            scale = scale * _batch_norm_scale(lockstep, user)
        elif name == "aten.mul.Tensor":
            factor = lockstep.name_of(user.args[1] if user.args[0] is at else user.args[0])
            if factor is None or lockstep.tensors[factor].numel() != num_channels:
                return None
            scale = scale * lockstep.tensors[factor].reshape(-1)
        elif name in ("aten.add.Tensor", "aten.add_.Tensor"):
            return _addition(lockstep, node, at, user, scale, channel_dim)
        elif name not in _IDENTITIES:
            return None
        at = user
    return None


def _batch_norm_scale(lockstep: Lockstep, node: fx.Node) -> Tensor:
    weight, variance = lockstep.name_of(node.args[1]), lockstep.name_of(node.args[4])
    assert variance is not None
    epsilon = node.args[7]
    assert isinstance(epsilon, float)
    scale = (lockstep.tensors[variance] + epsilon).rsqrt()
    return scale if weight is None else scale * lockstep.tensors[weight]


def _addition(
    lockstep: Lockstep, layer: fx.Node, at: fx.Node, user: fx.Node, scale: Tensor, channel_dim: int
) -> Tail | None:
    other = user.args[1] if user.args[0] is at else user.args[0]
    if not isinstance(other, fx.Node) or other is at or user.kwargs or lockstep.name_of(other) is not None:
        return None
    value = other.meta.get("val")
    if (
        not isinstance(value, Tensor)
        or value.shape != layer.meta["val"].shape
        or _depends(other, {layer} | lockstep.open)
    ):
        return None
    return Tail(other, scale, channel_dim)


def _depends(node: fx.Node, on: Set[fx.Node]) -> bool:
    """Is the node, or one of its ancestors, among ``on``?"""
    if node in on:
        return True
    seen, waiting = {node}, [node]
    while waiting:
        for argument in waiting.pop().all_input_nodes:
            if argument in on:
                return True
            if argument not in seen:
                seen.add(argument)
                waiting.append(argument)
    return False
