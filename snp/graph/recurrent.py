"""What do recurrent layers do to units?  What they read can be cut; their own hidden units stay, and are counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx

from snp.graph.counting import macs_of_operator
from snp.graph.operators import rule, unknown
from snp.graph.traced import Parameter
from snp.graph.tracer import Tracer

__all__: list[str] = []

_STATE = "a hidden unit of a recurrent layer"


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def _layers(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    """All time steps of some layers: weights of the first one read the input, in each direction."""
    shadow, weights = tracer.shadow(args[0]), args[2]
    if shadow is None or not isinstance(weights, list) or not all(isinstance(w, Parameter) for w in weights):
        return unknown(tracer, node, args)
    num_directions = 2 if args[7] else 1
    each = len(weights) // (args[4] * num_directions)
    return _read(tracer, node, shadow, weights[: each * num_directions : each], args[1])


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def _cell(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    """One time step."""
    shadow = tracer.shadow(args[0])
    if shadow is None or not isinstance(args[2], Parameter):
        return unknown(tracer, node, args)
    return _read(tracer, node, shadow, args[2:3], args[1])


def _read(tracer: Tracer, node: fx.Node, shadow: Tensor, weights: Sequence[Parameter], state: Any) -> Any:
    units = tracer.per_index(shadow, -1)
    rest = macs_of_operator(node)
    for weight in weights:
        tracer.labels.tie(units, tracer.along(weight, 1))
        tracer.read(weight, node, shadow.numel() // len(units), channel_dims=(-1, -1))
        rest -= shadow.numel() // len(units) * weight.shape[0] * weight.shape[1]
    tracer.spend(rest)
    tracer.freeze_inputs([state], f"is {_STATE}")
    return tracer.constant_like(node, f"meets {_STATE}")
