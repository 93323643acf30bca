"""What does a rule meet on its way through an exported graph?  Parameters, splits and attention calls, as values."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx

__all__ = ["HEAD_DIMENSION", "Call", "Parameter", "Split", "module_running"]

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
    """

    module: str
    query: Tensor
    key: Tensor
    score_macs: int
    implicit_scale: bool = False
    value: Tensor | None = None
    value_macs: int = 0


def module_running(node: fx.Node) -> str | None:
    """Name of the innermost module whose code ran an operator; None where that is not known."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]).split("@")[0] if stack else None
