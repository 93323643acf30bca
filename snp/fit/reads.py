"""Which nodes of an exported graph are layers: what do they read, by which weight, and what do they add?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from snp.fit.two_networks import TwoNetworks
from snp.graph.flattened import product_of_tokens

__all__ = ["Read", "own_name", "reads_of"]

_LAYERS = ("linear", *(f"{kind}{n}d" for kind in ("conv", "conv_transpose") for n in (1, 2, 3)))
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_CELLS = tuple(f"{name}_cell" for name in _RECURRENT)
_TURNING = ("t", "numpy_T", "mT", "transpose", "permute", "swapaxes", "swapdims", "unsqueeze", "squeeze")
_PRODUCTS = ("matmul", "mm", "einsum", "addmm")


@dataclass(frozen=True, eq=False)
class Read:
    """One layer.

    Attributes:
        source: the activations that are read.
        weight: name of the weight.
        bias: node of what is added; None where nothing is.
    """

    source: fx.Node
    weight: str
    bias: fx.Node | None = None


def reads_of(networks: TwoNetworks, node: fx.Node) -> list[Read]:
    """The layers that a node computes: none or one, or one per direction of a recurrent layer."""
    name = str(node.target).split(".")[1] if node.op == "call_function" and "." in str(node.target) else ""
    if name in _RECURRENT:
        weights: Any = node.args[2]
        num_layers, num_directions = int(str(node.args[4])), 2 if node.args[7] else 1
        each = len(weights) // (num_layers * num_directions)
        found = [_read(networks, node.args[0], weights[part * each]) for part in range(num_directions)]
    elif name in _CELLS:
        found = [_read(networks, node.args[0], node.args[2])]
    else:
        found = [_product(networks, node)]
    return [read for read in found if read is not None]


def _product(networks: TwoNetworks, node: fx.Node) -> Read | None:
    """The convolution or linear layer that a node computes; None where it is something else."""
    name = str(node.target).split(".")[1] if node.op == "call_function" and "." in str(node.target) else ""
    args = list(node.args)
    if node.target is product_of_tokens:
        return _read(networks, args[1], args[2], args[0])
    if name in _LAYERS and len(args) > 1:
        return _read(networks, args[0], args[1], args[2] if len(args) > 2 else None)
    if name == "addmm":
        return _read(networks, args[1], args[2], args[0])
    if name in _PRODUCTS:
        factors: Any = args[1] if name == "einsum" else args
        if len(factors) == 2:
            return _read(networks, factors[0], factors[1]) or _read(networks, factors[1], factors[0])
    return None


def _read(networks: TwoNetworks, source: Any, weight: Any, bias: Any = None) -> Read | None:
    while isinstance(weight, fx.Node) and _is_turned(weight):
        weight = weight.args[0]
    name = networks.name_of(weight)
    is_read = name is not None and isinstance(source, fx.Node) and networks.name_of(source) is None
    return Read(source, str(name), bias if isinstance(bias, fx.Node) else None) if is_read else None


def _is_turned(node: fx.Node) -> bool:
    """Does a node only put the dimensions of a matrix into another order, as in ``x @ self.weight.T``?"""
    return node.op == "call_function" and str(node.target).split(".")[1:2] in [[name] for name in _TURNING]


def own_name(networks: TwoNetworks, node: Any) -> str | None:
    """Name of the tensor a node stands for, unless others read it, too: they do not want it changed."""
    name = networks.name_of(node)
    return name if name is not None and networks.num_reads(name) == 1 else None
