"""Which blocks of a large network follow each other, so that one after the other can be worked on?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snp.graph.batches import Batch
from snp.measure.outputs import first_tensor
from snp.measure.readers import Reader
from snp.measure.visiting import Visits

__all__ = ["Call", "at_first_block", "blocks_of", "refuse_other_blocks"]

_AS_A_WHOLE = "calibrate it as a whole with snp.prune (in a run: calibration.streamed=false)"


class _ReachedError(Exception):
    """The first block is reached; the rest of the network is not computed."""


def blocks_of(model: nn.Module, readers: Mapping[str, Reader]) -> list[str]:
    """Names of the blocks that follow each other and hold all readers: the entries of one list.

    Lists are `nn.ModuleList` and `nn.Sequential`; of lists in each other the outermost one, but for a chain of one.

    Raises:
        ValueError: there is no such list.
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential))
        and all(reader.module.startswith(f"{name}." if name else "") for reader in readers.values())
    }
    longer = {name: each for name, each in found.items() if isinstance(each, nn.ModuleList) or len(each) > 1}
    for name, module in (longer or found).items():
        return [f"{name}.{key}" if name else key for key, _ in module.named_children()]
    raise ValueError(
        f"{type(model).__name__} has no list of blocks that holds every layer to be measured: {_AS_A_WHOLE}, or leave "
        "the layers outside its blocks alone (ignore=...)"
    )


@dataclass(frozen=True, eq=False)
class Call:
    """Arguments that a block is called with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def behind(self, output: Any) -> Call:
        """Arguments of the next block: the new hidden state takes the place of the old one."""
        hidden: Tensor = first_tensor(output)
        if self.args:
            return Call((hidden, *self.args[1:]), self.kwargs)
        return Call((), {**self.kwargs, "hidden_states": hidden})

    def at_rest(self, visits: Visits) -> Call:
        """The same where the network lies."""
        return Call(*visits.at_rest((self.args, self.kwargs)))

    def equals(self, other: Call) -> bool:
        """Are all values the same, tensors to the bit?"""
        mine, theirs = (pytree.tree_flatten((call.args, call.kwargs)) for call in (self, other))
        return mine[1] == theirs[1] and all(map(_is_same, mine[0], theirs[0]))

    def refuse_not_finite(self, name: str) -> None:
        """Values that are equal to none, not even to themselves.

        Raises:
            ValueError: a block gets NaN or infinite values.
        """
        leaves = [leaf for leaf in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]
        if any(leaf.is_floating_point() and bool(leaf.isnan().any()) for leaf in leaves):
            raise ValueError(
                f"the hidden states that {name} gets hold NaN values: look for samples that the network cannot take, "
                "and for weights in a precision that overflows"
            )


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or (one.shape == other.shape and torch.equal(one, other))
    return one is other or (type(one) is type(other) and bool(one == other))


def refuse_other_blocks(model: nn.Module, blocks: Sequence[str], batch: Batch) -> None:
    """Blocks must follow each other as they are run here.

    Raises:
        ValueError: one of them gets something else than what stands in front of it gives out, or is not called.
    """
    expected, called = list[Call](), list[str]()

    def before(name: str, call: Call) -> None:
        if [name] != [*blocks[len(called) : len(called) + 1]]:
            raise ValueError(f"{name} is not called once, in its turn: {_AS_A_WHOLE}")
        wanted = expected.pop() if expected else call
        if not wanted.equals(call):
            wanted.refuse_not_finite(name)
            raise ValueError(f"{name} does not get just what the block in front of it gives out: {_AS_A_WHOLE}")
        called.append(name)

    with ExitStack() as hooks:
        for name in blocks:
            block = model.get_submodule(name)
            hooks.enter_context(
                block.register_forward_pre_hook(
                    lambda _, args, kwargs, name=name: before(name, Call(args, kwargs)), with_kwargs=True
                )
            )
            hooks.enter_context(
                block.register_forward_hook(
                    lambda _, args, kwargs, output: expected.append(Call(args, kwargs).behind(output)),
                    with_kwargs=True,
                )
            )
        batch.call(model)
    if len(called) < len(blocks):
        raise ValueError(f"{blocks[len(called)]} is not called when the network runs: {_AS_A_WHOLE}")


def at_first_block(model: nn.Module, name: str, batch: Batch) -> Call:
    """Arguments that the first block is called with."""
    caught: list[Call] = []

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.append(Call(args, kwargs))
        raise _ReachedError

    with model.get_submodule(name).register_forward_pre_hook(stop, with_kwargs=True), suppress(_ReachedError):
        batch.call(model)
    return caught[0]
