"""How are the layers of a network looked at while it runs?

PyTorch's own layers by hooks on their modules. Where other code reads a weight (``x @ self.weight``, ``F.linear`` in
the middle of a module), the operator that gets the weight is looked at, because the module sees something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from snp.measure.readers import Reader

__all__ = ["Taps", "is_transformed"]

Before = Callable[[str, Tensor], None]
After = Callable[[str, Tensor], Tensor]
_READING = {"linear", "matmul", "__matmul__", "__rmatmul__", "mm", "einsum", "addmm"}
_READING |= {f"{kind}{n}d" for kind in ("conv", "conv_transpose") for n in (1, 2, 3)}


class Taps(ExitStack):
    """Calls back at every reader while the network runs inside the ``with`` block.

    Args:
        model: that runs.
        readers: weight name -> the layer.
        before: gets the weight's name and the layer's inputs.
        after: gets the weight's name and the layer's outputs, and gives out what takes their place.
    """

    def __init__(
        self, model: nn.Module, readers: Mapping[str, Reader], before: Before | None = None, after: After | None = None
    ) -> None:
        super().__init__()
        self._model, self._readers, self._before, self._after = model, readers, before, after
        self._modes: list[_Operators] = []

    def __enter__(self) -> Self:
        modules: dict[str, dict[int, str]] = {}
        for name, reader in self._readers.items():
            if reader.by_operator:
                modules.setdefault(reader.module, {})[id(self._model.get_parameter(name))] = name
            else:
                self._hook(name, self._model.get_submodule(reader.module))
        for module, names in modules.items():
            self._watch(self._model.get_submodule(module), names)
        return self

    def _hook(self, name: str, module: nn.Module) -> None:
        before, after = self._before, self._after
        if before is not None:

            def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                values = args[0] if args else kwargs["input"]
                if is_transformed(values):
                    raise ValueError(
                        f"the network calls layer {name.rpartition('.')[0]} inside torch.vmap or another transform of "
                        "torch.func, where nobody can see what it reads: call it on whole batches instead"
                    )
                before(name, values)

            self.enter_context(module.register_forward_pre_hook(look, with_kwargs=True))
        if after is not None:
            self.enter_context(module.register_forward_hook(lambda _, args, output: after(name, output)))

    def _watch(self, module: nn.Module, names: dict[int, str]) -> None:
        """Look at operators while the code of a module runs."""

        def begin(*_: Any) -> None:
            self._modes.append(_Operators(names, self._before, self._after))
            self._modes[-1].__enter__()

        def end(*_: Any) -> None:
            self._modes.pop().__exit__(None, None, None)

        self.enter_context(module.register_forward_pre_hook(begin))
        self.enter_context(module.register_forward_hook(end, always_call=True))


def is_transformed(values: Any) -> bool:
    """Are these values inside ``torch.vmap`` or another transform of ``torch.func``, where they lie nowhere?"""
    return isinstance(values, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(values)


class _Operators(TorchFunctionMode):
    """Looks at operators that get one of some weights.

    Args:
        names: identity of a weight -> its name.
        before: see :class:`Taps`.
        after: see :class:`Taps`.
    """

    def __init__(self, names: Mapping[int, str], before: Before | None, after: After | None) -> None:
        super().__init__()
        self._names, self._before, self._after = names, before, after

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        found = self._reading(func, args, kwargs) if getattr(func, "__name__", "") in _READING else None
        if found is not None and self._before is not None:
            self._before(*found)
        result = func(*args, **kwargs)
        return result if found is None or self._after is None else self._after(found[0], result)

    def _reading(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[str, Tensor] | None:
        """Name of the weight that an operator gets, and the activations beside it; None where it gets none."""
        values = [*args, *kwargs.values()]
        values = [entry for value in values for entry in (value if isinstance(value, (list, tuple)) else [value])]
        tensors = [value for value in values if isinstance(value, Tensor)]
        factors = tensors[1:] if func.__name__ == "addmm" else tensors[:2]
        for weight, other in zip(factors[:2], reversed(factors[:2]), strict=True):
            held = weight._base if weight._base is not None and weight._base.numel() == weight.numel() else weight
            for known in (weight, held):  # as it is, or turned round
                if id(known) in self._names:
                    return self._names[id(known)], _unflattened(other) if func.__name__ == "addmm" else other
        return None


def _unflattened(rows: Tensor) -> Tensor:
    """The tokens [..., K] of which rows [N, K] are a view: which of them make up a sample is lost in it."""
    whole = rows._base
    is_whole = whole is not None and whole.ndim > 2 and whole.is_contiguous() and whole.numel() == rows.numel()
    return whole if is_whole and whole.shape[-1] == rows.shape[-1] else rows  # type: ignore[union-attr,return-value]
