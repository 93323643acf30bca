"""What does a network compute in a higher precision, without a copy of its weights?

Every operator gets its floating arguments in that precision, and so do casts and new tensors that ask for less. One
layer's weights at a time are there twice. Code that insists on single precision inside computes in double, too, where
that is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["in_double", "in_single", "wider"]

# These compare the dtypes of what they get before they hand it on to operators.
_PARTICULAR = ("conv", "linear", "bilinear", "lstm", "gru", "rnn")

_Wider = Mapping[torch.dtype, torch.dtype]
_SINGLE: _Wider = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.complex32: torch.complex64}
_DOUBLE: _Wider = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}


def _widened(value: Any, wide: _Wider) -> Any:
    """A nest of values with its floating tensors in the higher precision."""
    if isinstance(value, Tensor):
        return wider(value, wide)
    # Arguments of operators are flat but for a list or two, for which a general tree takes longer than the operator.
    if type(value) in (tuple, list):
        return type(value)(_widened(part, wide) for part in value)
    if type(value) is dict:
        return {key: _widened(part, wide) for key, part in value.items()}
    is_nest = isinstance(value, (tuple, list, dict))
    return pytree.tree_map_only(Tensor, lambda tensor: wider(tensor, wide), value) if is_nest else value


def wider(tensor: Tensor, wide: _Wider = _DOUBLE) -> Tensor:
    """A floating tensor in double precision, or in another that is named; others as they are."""
    return tensor.to(wide[tensor.dtype]) if tensor.dtype in wide else tensor


@contextmanager
def in_double() -> Iterator[None]:
    """Operators inside the ``with`` block compute in double precision."""
    with _Functions(_DOUBLE), _Operators(_DOUBLE):
        yield


@contextmanager
def in_single() -> Iterator[None]:
    """Operators inside the ``with`` block compute in single precision where they would compute in half."""
    with _Functions(_SINGLE), _Operators(_SINGLE):
        yield


class _Functions(TorchFunctionMode):
    """Layers' functions get their weights in the precision of their inputs."""

    def __init__(self, wide: _Wider) -> None:
        super().__init__()
        self._wide = wide

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "").startswith(_PARTICULAR):
            args, kwargs = _widened((args, kwargs or {}), self._wide)
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    """All operators get the higher precision; a tensor that is written to keeps its own."""

    def __init__(self, wide: _Wider) -> None:
        super().__init__()
        self._wide = wide

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, wide = kwargs or {}, self._wide
        written = [value.dtype for value in _written(func, args, kwargs) if value.dtype in wide]
        if written:
            reached = {*wide.values()}
            args, kwargs = pytree.tree_map_only(Tensor, lambda t: _narrower(t, written[0], reached), (args, kwargs))
            return func(*args, **kwargs)
        # A tensor that is double already stays the very same, so that what is written to it is not lost.
        given, named = _widened((args, kwargs), wide)
        named = {key: wide.get(value, value) if key == "dtype" else value for key, value in named.items()}
        result = func(*given, **named)
        # New tensors without a dtype are of the default one.
        return result if _holds_tensor(args) else _widened(result, wide)


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


def _narrower(tensor: Tensor, dtype: torch.dtype, reached: Collection[torch.dtype]) -> Tensor:
    return tensor.to(dtype) if tensor.dtype in reached and not tensor.is_complex() else tensor
