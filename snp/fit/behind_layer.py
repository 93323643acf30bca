"""What is done with a layer's output: scaled, added to a residual stream, rectified?

What the stream is missing can be made up for by the layer, and what a rectifier cuts off need not be right.
"""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from snp.fit.two_networks import TwoNetworks

__all__ = ["Tail", "tail_of"]

_IDENTITIES = ("aten.dropout.default", "aten.clone.default", "aten.contiguous.default", "aten.alias.default")
_BOUNDS = {
    "aten.relu.default": (0.0, math.inf),
    "aten.relu_.default": (0.0, math.inf),
    "aten.relu6.default": (0.0, 6.0),
    "aten.relu6_.default": (0.0, 6.0),
}
# A channel that the affine chain all but switches off says nothing about what it should have been.
_SMALLEST_SCALE = 1e-3


@dataclass(frozen=True, eq=False)
class Tail:
    """A chain of per-channel affine maps from a layer to an addition, a rectifier, or first one and then the other.

    Attributes:
        scale, shift: the chain is output * scale + shift, shape [O]; scale is zero where the chain all but switches a
            channel off.
        channel_dim: dimension of the channels.
        other: the node that the chain's end is added to; None where nothing is.
        low, high: bounds of the rectifier that alone reads the result; infinite where there is none.
        end: the chain's end, or the sum, where it should have other values than in the dense network; else None.
        aim: the node whose dense values it should have.
    """

    scale: Tensor
    shift: Tensor
    channel_dim: int
    other: fx.Node | None = None
    low: float = -math.inf
    high: float = math.inf
    end: fx.Node | None = None
    aim: fx.Node | None = None

    @property
    def rectifies(self) -> bool:
        """Is there a rectifier?"""
        return self.low > -math.inf or self.high < math.inf

    def missing(self, networks: TwoNetworks, batch: int) -> Tensor | float:
        """What the layer's output in the dense network has to be larger by, to make the sum what it should be."""
        error: Tensor | float = 0.0
        if self.other is not None and networks.differs(self.other):
            error = networks.dense[self.other][batch] - networks.current[self.other][batch]
        if self.aim is not None and self.end is not None:
            error = error + networks.dense[self.aim][batch] - networks.dense[self.end][batch]
        if not isinstance(error, Tensor):
            return 0.0
        scale = self._along(self.scale, error)
        return torch.where(scale == 0, 0.0, error / torch.where(scale == 0, 1.0, scale))

    def dense(self, networks: TwoNetworks, output: Tensor, batch: int) -> Tensor:
        """What the rectifier should get, from the dense network's output of the layer."""
        if self.aim is not None:
            return networks.dense[self.aim][batch]
        result = output * self._along(self.scale, output) + self._along(self.shift, output)
        return result if self.other is None else result + networks.dense[self.other][batch]

    def _along(self, values: Tensor, of: Tensor) -> Tensor:
        return values.reshape([-1 if index == self.channel_dim % of.ndim else 1 for index in range(of.ndim)])


def tail_of(
    networks: TwoNetworks, node: fx.Node, channel_dim: int | None = None, *, repair: bool, rectify: bool
) -> Tail | None:
    """The chain behind a convolution or linear layer, or None where it ends in nothing of interest.

    Args:
        networks: the layer's inputs are computed in it.
        node: the layer.
        channel_dim: dimension of its outputs along which channels lie; None for what is usual of such a layer.
        repair: look for an addition.
        rectify: look for a rectifier; one behind an addition only together with ``repair``.
    """
    if channel_dim is None:
        channel_dim = -1 if "linear" in str(node.target) else 1
    num_channels = node.meta["val"].shape[channel_dim]
    ones = torch.ones(num_channels, dtype=torch.float32, device=networks.device)
    tail, at = Tail(ones, torch.zeros_like(ones), channel_dim), node
    while len(at.users) == 1 and at not in networks.aims:
        user = next(iter(at.users))
        name = str(user.target)
        if name in ("aten.add.Tensor", "aten.add_.Tensor"):
            other = _other(networks, node, at, user) if repair or user in networks.aims else None
            if other is None:
                return None
            tail = _aimed(networks, replace(tail, other=other), user)
            return _usable(_rectified(tail, user) if rectify else tail)
        following = tail if name in _IDENTITIES else _scaled(networks, tail, at, user)
        if following is None:
            break
        tail, at = following, user
    tail = _aimed(networks, _rectified(tail, at) if rectify else tail, at)
    return _usable(tail) if tail.rectifies or tail.aim is not None else None


def _aimed(networks: TwoNetworks, tail: Tail, end: fx.Node) -> Tail:
    aim = networks.aims.get(end)
    return tail if aim is None else replace(tail, end=end, aim=aim)


def _scaled(networks: TwoNetworks, tail: Tail, at: fx.Node, user: fx.Node) -> Tail | None:
    """The chain with one more affine map; None where the user is something else."""
    name = str(user.target)
    if name == "aten.batch_norm.default" and user.args[0] is at and all(map(networks.name_of, user.args[3:5])):
        scale, shift = _batch_norm(networks, user)
        return replace(tail, scale=tail.scale * scale, shift=tail.shift * scale + shift)
    if name == "aten.mul.Tensor":
        factor = networks.name_of(user.args[1] if user.args[0] is at else user.args[0])
        if factor is not None and networks.tensors[factor].numel() == tail.scale.numel():
            scale = networks.tensors[factor].reshape(-1)
            return replace(tail, scale=tail.scale * scale, shift=tail.shift * scale)
    return None


def _batch_norm(networks: TwoNetworks, node: fx.Node) -> tuple[Tensor, Tensor]:
    weight, bias, mean, variance = (
        None if name is None else networks.tensors[name] for name in map(networks.name_of, node.args[1:5])
    )
    assert variance is not None
    assert mean is not None
    epsilon = node.args[7]
    assert isinstance(epsilon, float)
    scale = (variance + epsilon).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    return scale, shift if bias is None else shift + bias


def _rectified(tail: Tail, at: fx.Node) -> Tail:
    """The chain with the rectifier that alone reads a node, if there is one."""
    if len(at.users) != 1:
        return tail
    user = next(iter(at.users))
    name = str(user.target)
    if name in _BOUNDS:
        return replace(tail, low=_BOUNDS[name][0], high=_BOUNDS[name][1])
    if name in ("aten.hardtanh.default", "aten.hardtanh_.default"):
        low, high = [float(value) for value in user.args[1:] if isinstance(value, (int, float))] or (-1.0, 1.0)
        return replace(tail, low=low, high=high)
    return tail


def _usable(tail: Tail) -> Tail:
    size = tail.scale.abs()
    return replace(tail, scale=torch.where(size > _SMALLEST_SCALE * size.max(), tail.scale, 0.0))


def _other(networks: TwoNetworks, layer: fx.Node, at: fx.Node, user: fx.Node) -> fx.Node | None:
    """The stream that is added to, or None where it is something else or cannot be computed before the layer."""
    other = user.args[1] if user.args[0] is at else user.args[0]
    if not isinstance(other, fx.Node) or other is at or user.kwargs or networks.name_of(other) is not None:
        return None
    value = other.meta.get("val")
    if not isinstance(value, Tensor) or value.shape != layer.meta["val"].shape:
        return None
    return None if _depends(other, {layer} | networks.open) else other


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
