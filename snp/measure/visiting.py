"""How does a network that lies in main memory run on a device that has room for one of its blocks?

What stands in front of the blocks and behind them is on the device while this lasts; a block is brought there when it
is called, and goes when another one is called: batch after batch through the same block takes one way across. Nothing
is brought back, because nothing is written: the tensors in main memory (or mapped from a file) stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = ["MAIN_MEMORY", "STAYS", "TensorsThere", "Visits", "visited_device", "with_forward"]

T = TypeVar("T")
MAIN_MEMORY = torch.device("cpu")


@dataclass(frozen=True)
class Visits:
    """Which blocks of a network visit which device.

    Attributes:
        blocks: names of modules that are called one after the other.
        device: where they are run; None where the network is, and nothing is moved.
    """

    blocks: tuple[str, ...] = ()
    device: torch.device | None = None

    @contextmanager
    def of(self, model: nn.Module) -> Iterator[None]:
        """The network runs on the device inside the ``with`` block, wherever its inputs are.

        Args:
            model: in main memory. Its tensors are not to be read or written inside.
        """
        if self.device is None:
            yield
            return
        with _Visitor(model, self.blocks, self.device):
            yield

    def at_rest(self, values: T) -> T:
        """A nest of values in main memory, where the network is; as it is where nothing is moved."""
        return values if self.device is None else _moved(values, MAIN_MEMORY)

    def there(self, values: T) -> T:
        """A nest of values on the device; as it is where nothing is moved."""
        return values if self.device is None else _moved(values, self.device)

    def tensors(self, named: MutableMapping[str, Tensor]) -> MutableMapping[str, Tensor]:
        """Tensors of a network as they are looked at where it is run."""
        return named if self.device is None else TensorsThere(named, self.blocks, self.device)


STAYS = Visits()


def visited_device(at: torch.device, asked: torch.device | str) -> torch.device:
    """The device that blocks of a network are to visit.

    Args:
        at: where the network is.
        asked: as a user names it.

    Raises:
        ValueError: there is no such device, or the network is on another one.
    """
    try:
        device = torch.empty(0, device=asked).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # what PyTorch raises without a driver
        raise ValueError(f"device={str(asked)!r} cannot be used here: {str(error).splitlines()[0]}") from error
    if at not in (device, MAIN_MEMORY):
        raise ValueError(
            f"device={str(asked)!r}: blocks visit a device from main memory, and the network is on {at}: call "
            "model.cpu() before, or leave device out"
        )
    return device


class TensorsThere(MutableMapping[str, Tensor]):
    """Tensors by name on a device: of one block at a time, and what belongs to no block. What is set stays at rest.

    Args:
        at_rest: name -> tensor in main memory; what is set goes there.
        blocks: names of the blocks.
        device: where tensors are looked at.
    """

    def __init__(self, at_rest: MutableMapping[str, Tensor], blocks: Sequence[str], device: torch.device) -> None:
        self.at_rest = at_rest
        self._device, self._prefixes = device, [f"{block}." for block in blocks]
        self._there: dict[str, dict[str, Tensor]] = {"": {}}

    def __getitem__(self, name: str) -> Tensor:
        block = next((prefix for prefix in self._prefixes if name.startswith(prefix)), "")
        if block not in self._there:
            self._there = {"": self._there[""], block: {}}
        there = self._there[block]
        if name not in there:
            there[name] = self.at_rest[name].to(self._device)
        return there[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        self.at_rest[name] = value.to(MAIN_MEMORY)
        for there in self._there.values():
            there.pop(name, None)

    def __delitem__(self, name: str) -> None:
        raise TypeError("a network keeps its tensors")

    def __iter__(self) -> Iterator[str]:
        return iter(self.at_rest)

    def __len__(self) -> int:
        return len(self.at_rest)


class _Visitor(ExitStack):
    """Runs a network on a device inside the ``with`` block."""

    def __init__(self, model: nn.Module, blocks: Iterable[str], device: torch.device) -> None:
        super().__init__()
        self._model, self._device = model, device
        self._blocks = [model.get_submodule(name) for name in blocks]
        self._block: nn.Module | None = None
        self._left: list[tuple[Tensor, Tensor]] = []  # tensors of the block that is there, and what they are at rest
        inside = {id(tensor) for block in self._blocks for tensor in _tensors_of(block)}
        self._outside = [tensor for tensor in _tensors_of(model) if id(tensor) not in inside]

    def __enter__(self) -> _Visitor:
        self.callback(self._leave)
        self.callback(_rest, self._brought(self._outside))
        for block in self._blocks:
            self.enter_context(with_forward(block, partial(self._visit, block, block.forward)))
        self.enter_context(self._model.register_forward_pre_hook(self._bring_inputs, with_kwargs=True))
        return self

    def _bring_inputs(self, _: nn.Module, *given: Any) -> Any:
        return _moved(given, self._device)

    def _brought(self, tensors: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Tensors, and what they were before they were brought to the device."""
        left = [(tensor, tensor.data) for tensor in tensors]
        for tensor, data in left:
            tensor.data = data.to(self._device)
        return left

    def _leave(self) -> None:
        _rest(self._left)
        self._block, self._left = None, []

    def _visit(self, block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if block is not self._block:
            self._leave()
            self._block, self._left = block, self._brought(_tensors_of(block))
        args, kwargs = _moved((args, kwargs), self._device)
        return forward(*args, **kwargs)


def _tensors_of(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers, each once."""
    return list({id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}.values())


def _rest(left: Iterable[tuple[Tensor, Tensor]]) -> None:
    for tensor, data in left:
        tensor.data = data


def _moved(values: T, device: torch.device) -> T:
    moved: T = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device), values)
    return moved


@contextmanager
def with_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """A module that computes ``forward`` instead inside the ``with`` block."""
    own = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        module.__dict__.pop("forward")
        if own is not None:
            module.__dict__["forward"] = own
