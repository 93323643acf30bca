"""What were the entries of lists of modules called with, and what did they give out?"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snp.graph.batches import Batch

__all__ = ["Call", "calls_of", "cloned"]


class Call:
    """What a module was called with and gave out."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args, self.kwargs = args, kwargs
        self.output: Any = None

    @property
    def num_inputs(self) -> int:
        """How many arguments there were; a single keyword does as two, which no module of PyTorch passes on."""
        return len(self.args) + 2 * len(self.kwargs)

    @property
    def first(self) -> Any:
        """The first argument."""
        return self.args[0] if self.args else next(iter(self.kwargs.values()), None)

    def passes_on(self, output: Any) -> bool:
        """Is an output the first argument, to the bit?"""
        found = output[0] if isinstance(output, tuple) else output
        return torch.equal(found, self.first)


def calls_of(model: nn.Module, batch: Batch) -> dict[str, list[Call]]:
    """Calls of every entry of a list of modules, in the order of the first ones."""
    names = {
        f"{name}.{key}" if name else key
        for name, module in model.named_modules()
        if isinstance(module, (nn.Sequential, nn.ModuleList))
        for key, _ in module.named_children()
    }
    calls: dict[str, list[Call]] = {}

    def before(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        # Its code may write over what it gets.
        calls.setdefault(name, []).append(Call(*cloned((args, dict(kwargs)))))

    def behind(name: str, output: Any) -> None:
        calls[name][-1].output = cloned(output)

    with ExitStack() as hooks, torch.no_grad():
        for name in names:
            module = model.get_submodule(name)
            hooks.enter_context(
                module.register_forward_pre_hook(
                    lambda _, args, kwargs, name=name: before(name, args, kwargs), with_kwargs=True
                )
            )
            hooks.enter_context(module.register_forward_hook(lambda _, args, output, name=name: behind(name, output)))
        batch.call(model)
    return calls


def cloned(values: Any) -> Any:
    """The same nest with copies of all tensors."""
    return pytree.tree_map_only(Tensor, torch.clone, values)
