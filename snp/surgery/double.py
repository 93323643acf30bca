"""What does a network compute in double precision, without a copy of its weights?

Every operator gets its floating arguments in double precision, and so do casts and new tensors that ask for less. One
layer's weights at a time are there twice. Code that insists on single precision inside computes in double, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["in_double", "wider"]

# These compare the dtypes of what they get before they hand it on to operators.
_PARTICULAR = ("conv", "linear", "bilinear", "lstm", "gru", "rnn")

_WIDER = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}


def _doubled(value: Any) -> Any:
    """A nest of values with its floating tensors in double precision."""
    if isinstance(value, Tensor):
        return wider(value)
    # Arguments of operators are flat but for a list or two, for which a general tree takes longer than the operator.
    if type(value) in (tuple, list):
        return type(value)(map(_doubled, value))
    if type(value) is dict:
        return {key: _doubled(part) for key, part in value.items()}
    return pytree.tree_map_only(Tensor, wider, value) if isinstance(value, (tuple, list, dict)) else value


def wider(tensor: Tensor) -> Tensor:
    """A floating tensor in double precision; others as they are."""
    return tensor.to(_WIDER[tensor.dtype]) if tensor.dtype in _WIDER else tensor


@contextmanager
def in_double() -> Iterator[None]:
    """Operators inside the ``with`` block compute in double precision."""
    with _Functions(), _Operators():
        yield


class _Functions(TorchFunctionMode):
    """Layers' functions get their weights in the precision of their inputs."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "").startswith(_PARTICULAR):
            args, kwargs = _doubled((args, kwargs or {}))
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    """All operators get double precision; a tensor that is written to keeps its own."""

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        written = [value.dtype for value in _written(func, args, kwargs) if value.dtype in _WIDER]
        if written:
            args, kwargs = pytree.tree_map_only(Tensor, lambda t: _narrower(t, written[0]), (args, kwargs))
            return func(*args, **kwargs)
        # A tensor that is double already stays the very same, so that what is written to it is not lost.
        given, named = _doubled((args, kwargs))
        named = {key: _WIDER.get(value, value) if key == "dtype" else value for key, value in named.items()}
        result = func(*given, **named)
        # New tensors without a dtype are of the default one.
        return result if _holds_tensor(args) else _doubled(result)


def _holds_tensor(values: Any) -> bool:
    """Is there a tensor in a nest of values?"""
    return any(isinstance(value, Tensor) for value in values) or any(
        isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(values)
    )


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Tensors that an operator writes to."""
    found = []
    for position, name in _written_arguments(func):
        value = args[position] if position < len(args) else kwargs.get(name)
        found += [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
    return found


@cache
def _written_arguments(func: Any) -> tuple[tuple[int, str], ...]:
    """Position and name of the arguments that an operator writes to."""
    arguments = enumerate(func._schema.arguments)
    return tuple((n, one.name) for n, one in arguments if one.alias_info is not None and one.alias_info.is_write)


def _narrower(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.dtype is torch.float64 else tensor
