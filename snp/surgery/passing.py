"""What stands in the place of a block that was taken out?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from snp.graph.residual import ResidualBlock
from snp.surgery.layer_lists import lists_of, shorten

__all__ = ["PassOn", "without_blocks", "zeroed_writers"]


class PassOn(nn.Identity):
    """Gives out its first argument, in the form that the block gave out.

    Args:
        num_outputs: entries of a tuple, all but the first None; None for a tensor.
    """

    def __init__(self, num_outputs: int | None = None) -> None:
        super().__init__()
        self.num_outputs = num_outputs

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The first argument, whatever the others are."""
        first = args[0] if args else next(iter(kwargs.values()))
        return first if self.num_outputs is None else (first, *[None] * (self.num_outputs - 1))


def without_blocks(model: nn.Module, blocks: Sequence[ResidualBlock]) -> nn.Module:
    """The model without blocks.

    Modules that pass their input on take their places; where a configuration notes how many layers there are, there are
    fewer.

    Args:
        model: is changed, and so is its configuration.
        blocks: of it.

    Raises:
        ValueError: it has no such module.
    """
    shorter = _lists(model, blocks)
    for name, gone in shorter.items():
        shorten(model, name, gone)
    for block in blocks:
        if block.name.rpartition(".")[0] in shorter:
            continue
        parent, _, leaf = block.name.rpartition(".")
        try:
            is_training = model.get_submodule(block.name).training
            model.get_submodule(parent).register_module(leaf, _in_place_of(block).train(is_training))
        except AttributeError:
            raise _other_model(block.name) from None
    return model


def _in_place_of(block: ResidualBlock) -> nn.Module:
    """PyTorch's own module where that will do."""
    return nn.Identity() if (block.num_inputs, block.num_outputs) == (1, None) else PassOn(block.num_outputs)


def _lists(model: nn.Module, blocks: Sequence[ResidualBlock]) -> dict[str, list[int]]:
    try:
        return lists_of(model, blocks)
    except AttributeError:
        raise _other_model(", ".join(block.name for block in blocks)) from None


def _other_model(names: str) -> ValueError:
    return ValueError(f"the plan takes out {names}, which this model does not have: it was made for another model")


def zeroed_writers(model: nn.Module, blocks: Sequence[ResidualBlock]) -> dict[str, Tensor]:
    """Tensors at zero by which a model computes what it computes without blocks, by name."""
    names = {name for block in blocks for name in block.writers}
    tensors = dict(chain(model.named_parameters(), model.named_buffers()))
    return {name: torch.zeros_like(tensors[name].detach()) for name in sorted(names)}
