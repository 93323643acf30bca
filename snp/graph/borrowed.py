"""Does a copy of a network compute with layers of the one that it was copied from?

Functions are not copied. One that was made inside a module and holds another (a ``forward`` put in the place of an old
one, a lambda over ``self``) goes on calling the layers of the network that was given: the copy would be cut and fitted
where nothing reads it, and change when the other one is trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from snp.graph.batches import Batch
from snp.graph.shared_inputs import outputs_of

__all__ = ["refuse_borrowed"]


def refuse_borrowed(copy: nn.Module, given: nn.Module, batch: Batch) -> None:
    """Run the copy on a batch, and look at what it computes with.

    Args:
        copy: in evaluation mode; what it shares with the other on purpose is its own.
        given: what it was copied from.
        batch: two samples, on any device.

    Raises:
        ValueError: it computes with a parameter of ``given``; the message names it. Or it does not take the batch.
    """
    own = {id(parameter) for parameter in copy.parameters()}
    others = {id(each): name for name, each in given.named_parameters() if id(each) not in own}
    with _Watch(others) as watch:
        outputs_of(copy, batch, "two samples of the first batch alone")
    if watch.found:
        raise ValueError(
            f"a copy of {type(given).__name__} computes with {watch.found} of the network it was copied from: a "
            "function in it (a forward put in the place of an old one, a lambda over self) holds that layer, and "
            "functions are not copied. Put what it does into the forward of a class, whose methods belong to every "
            "copy"
        )


class _Watch(TorchFunctionMode):
    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self._names, self.found = names, ""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not self.found:
            leaves = pytree.tree_leaves((args, kwargs or {}))
            self.found = next((self._names[id(leaf)] for leaf in leaves if id(leaf) in self._names), "")
        return func(*args, **(kwargs or {}))
