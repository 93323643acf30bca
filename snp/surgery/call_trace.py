"""Which functions does a network call, and with which sizes?  Modes of a network that call the same have one code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

__all__ = ["CallTrace", "called_modules"]

# These are told by an argument which mode they run in, and treat every channel alike in both.
_TOLD = ("batch_norm", "instance_norm", "dropout", "multi_head_attention_forward")
# Nothing is computed.
_SILENT = ("__get__", "device")


class CallTrace(TorchFunctionMode):
    """Notes every function of PyTorch that is called inside the ``with`` block, from the outside only.

    Attributes:
        calls: name, sizes of tensors and all other arguments. Calls on single numbers, as those that count batches,
            are left out; so is what only reads a tensor's attributes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, str]] = []

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", str(func))
        leaves = pytree.tree_leaves((args, kwargs))
        sizes = [tuple(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor)]
        if name not in _SILENT and (any(sizes) or not sizes):
            told = name.endswith(_TOLD)
            others = [_plain(leaf) for leaf in leaves if not isinstance(leaf, (Tensor, bool) if told else Tensor)]
            self.calls.append((name, f"{sizes} {others}"))
        return func(*args, **(kwargs or {}))


@contextmanager
def called_modules(model: nn.Module) -> Iterator[set[str]]:
    """Gathers the names of the modules that are called inside the ``with`` block."""
    called = set[str]()
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            handle = module.register_forward_pre_hook(lambda *_, name=name: called.add(name))
            hooks.callback(handle.remove)
        yield called


def _plain(value: Any) -> str:
    """A value that says the same in every call."""
    return repr(value) if isinstance(value, (bool, int, float, str, slice, torch.dtype)) else type(value).__name__
