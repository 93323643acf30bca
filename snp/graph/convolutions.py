"""What do convolutions do to units?  Rules for plain, grouped, depthwise and transposed ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from snp.graph.layers import at_all_positions, emit
from snp.graph.operators import rule, unknown
from snp.graph.traced import Parameter
from snp.graph.tracer import Tracer


@dataclass(frozen=True)
class _Kernel:
    """What a convolution is given: activations of so many values, labels of their channels [C], weight and bias."""

    num_inputs: int
    channels: Tensor
    weight: Parameter
    bias: Any
    groups: int


def _kernel(tracer: Tracer, node: fx.Node, args: list[Any]) -> _Kernel | None:
    """None where labels or a parameter are missing, or samples have no dimension of their own."""
    shadow, weight, bias = tracer.shadow(args[0]), args[1], args[2] if len(args) > 2 else None
    groups: Any = args[6] if len(args) > 6 else node.kwargs.get("groups", 1)
    if shadow is None or not isinstance(weight, Parameter) or shadow.ndim != node.meta["val"].ndim:
        return None
    return _Kernel(shadow.numel(), tracer.per_index(shadow, 1), weight, bias, groups)


def _why(weight: Any) -> str:
    """What is special about a convolution that has no rule."""
    return "" if isinstance(weight, Parameter) else "a convolution whose kernel is computed on the way"


@rule("conv1d", "conv2d", "conv3d")
def _convolution(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    kernel, result = _kernel(tracer, node, args), node.meta["val"]
    if kernel is None:
        return unknown(tracer, node, args, _why(args[1]))
    weight, bias, groups, channels = kernel.weight, kernel.bias, kernel.groups, kernel.channels
    tracer.read(weight, node, result.numel() // weight.shape[0], is_convolution=True)
    if groups == len(channels) > 1:
        # Depthwise: output channel j reads input channel j // multiplier only, so they are one unit.
        rows = _passed_on(tracer, weight, bias)
        tracer.labels.tie(channels.repeat_interleave(len(rows) // groups), rows)
    else:
        rows = emit(tracer, node, weight, 0, bias)
        if groups > 1:
            tracer.blocks[(weight.name, 1)] = groups
            tracer.even += [(channels, groups, weight.name), (rows, groups, weight.name)]
        tracer.labels.tie(channels, tracer.along(weight, 1, groups))
    return at_all_positions(rows, result)


def _passed_on(tracer: Tracer, weight: Parameter, bias: Any, multiplier: int = 1) -> Tensor:
    """Labels of a depthwise kernel's outputs: rows of it, of which each makes so many."""
    tracer.depthwise.add(weight.name)
    rows = tracer.along(weight, 0).repeat_interleave(multiplier)
    if isinstance(bias, Parameter):
        tracer.labels.tie(rows, tracer.along(bias, 0))
    return rows


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _transposed_convolution(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    """A kernel of shape [inputs, outputs / groups, ...]: outputs of group g lie in the columns of its rows."""
    kernel, result = _kernel(tracer, node, args), node.meta["val"]
    if kernel is None:
        return unknown(tracer, node, args, _why(args[1]))
    weight, bias, groups, channels = kernel.weight, kernel.bias, kernel.groups, kernel.channels
    positions, more = kernel.num_inputs // weight.shape[0], tuple(args[5]) if len(args) > 5 else ()
    more = more * (result.ndim - 2) if len(more) == 1 else more
    tracer.read(weight, node, positions, input_dim=0, is_convolution=True, output_padding=more)
    tracer.labels.tie(channels, tracer.along(weight, 0))
    if groups == len(channels) > 1:
        rows = _passed_on(tracer, weight, bias, weight.shape[1])
    else:
        rows = emit(tracer, node, weight, 1, bias, groups)
        if groups > 1:
            tracer.blocks[(weight.name, 1)] = groups
            tracer.even += [(channels, groups, weight.name), (rows, groups, weight.name)]
    return at_all_positions(rows, result)
