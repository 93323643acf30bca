"""What does a rule meet on its way through an exported graph?  Parameters, splits and attention calls, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

__all__ = [
    "HEAD_DIMENSION",
    "Call",
    "Parameter",
    "Split",
    "Turned",
    "held_numbers",
    "module_running",
    "refuse_sizes_of_values",
    "turned",
]

HEAD_DIMENSION = "head dimension of an attention layer"


class Parameter:
    """A parameter or buffer of the exported program; its labels come into being when a rule asks for them."""

    def __init__(self, name: str, shape: tuple[int, ...], *, is_buffer: bool = False) -> None:
        self.name, self.shape, self.is_buffer = name, shape, is_buffer

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)


@dataclass(frozen=True, eq=False)
class Turned:
    """A parameter whose dimensions were put into another order, as in ``x @ self.weight.T``.

    Attributes:
        parameter: which one.
        dims: its dimension at each place; None for a dimension of size one that was put in.
    """

    parameter: Parameter
    dims: tuple[int | None, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """As it lies now."""
        return tuple(1 if dim is None else self.parameter.shape[dim] for dim in self.dims)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.dims)

    def elements(self, labels: Tensor) -> Tensor:
        """Labels of all elements of the parameter, as it lies now."""
        kept = [dim for dim in self.dims if dim is not None]
        left = [dim for dim in range(labels.ndim) if dim not in kept]
        return labels.permute(*kept, *left).reshape(self.shape)


def turned(node: fx.Node, args: Sequence[Any]) -> Parameter | Turned | None:
    """A parameter as an operator turns it round; None where the operator does something else."""
    value, rest = args[0], args[1:]
    dims = list(value.dims if isinstance(value, Turned) else range(value.ndim))
    name = str(node.target).split(".")[1]
    if name in ("t", "numpy_T"):
        dims.reverse()
    elif name in ("mT", "transpose", "swapaxes", "swapdims"):
        one, other = (-2, -1) if name == "mT" else rest[:2]
        dims[one], dims[other] = dims[other], dims[one]
    elif name == "permute":
        dims = [dims[place] for place in rest[0]]
    elif name == "unsqueeze":
        dims.insert(rest[0] % (len(dims) + 1), None)
    elif name == "squeeze" and rest and isinstance(rest[0], int):
        if value.shape[rest[0]] == 1:
            del dims[rest[0]]
    else:
        return None
    parameter = value.parameter if isinstance(value, Turned) else value
    found = Turned(parameter, tuple(dims))
    stays = all(size == 1 or dim == place for place, (dim, size) in enumerate(zip(dims, found.shape, strict=True)))
    return parameter if stays and found.shape == parameter.shape else found


@dataclass(frozen=True, eq=False)
class Split:
    """A tensor that was divided into parts of given sizes.

    Attributes:
        module: whose code did it; None where that is not known.
        sizes: of the parts.
        parts: labels along the divided dimension, one tensor of shape [size] per part.
    """

    module: str | None
    sizes: tuple[int, ...]
    parts: tuple[Tensor, ...]


@dataclass(eq=False)
class Call:
    """One attention call; labels of all L heads of all samples.

    Attributes:
        module: name of the module that computes the product.
        query, key: labels of shape [L, D].
        value: labels of shape [L, V]; None until scores meet values.
        implicit_scale: the fused call scales by the size it gets.
        score_macs, value_macs: multiply-accumulates of the whole example batch.
        scores_alone, value_alone: they depend on no input of the network.
    """

    module: str
    query: Tensor
    key: Tensor
    score_macs: int
    implicit_scale: bool = False
    value: Tensor | None = None
    value_macs: int = 0
    scores_alone: bool = False
    value_alone: bool = False


def held_numbers(constants: Mapping[fx.Node, Tensor], node: Any) -> Tensor | None:
    """Whole numbers that stand in the code, as they come or copied; None for what is computed.

    Args:
        constants: nodes of tensors that the code holds -> their values.
        node: an argument.
    """
    while isinstance(node, fx.Node) and any(word in str(node.target) for word in ("lift_fresh", "detach", "clone")):
        node = node.args[0]
    value = constants.get(node)
    return None if value is None or value.is_floating_point() or value.dtype == torch.bool else value


def module_running(node: fx.Node) -> str | None:
    """Name of the innermost module whose code ran an operator; None where that is not known."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]).split("@")[0] if stack else None


def refuse_sizes_of_values(node: fx.Node) -> None:
    """A selection among candidates, and all that is computed of it, have no shape that labels could take.

    Raises:
        ValueError: a size of what the node puts out depends on values.
    """
    sizes = [size for leaf in pytree.tree_leaves(node.meta.get("val")) for size in getattr(leaf, "shape", ())]
    if not all(isinstance(size, int) for size in sizes):
        raise ValueError(
            f"{node.target} puts out tensors whose size depends on values, so that units and costs behind it are "
            "unknown: prune the network without that part (a detector without its selection of boxes, say)"
        )
