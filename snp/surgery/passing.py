"""What stands in the place of a block that was taken out?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from snp.graph.residual import ResidualBlock

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


def without_blocks(model: nn.Module, blocks: Iterable[ResidualBlock]) -> nn.Module:
    """The model, in which modules that pass their input on take the places of blocks.

    Args:
        model: is changed.
        blocks: of it.

    Raises:
        ValueError: it has no such module.
    """
    for block in blocks:
        parent, _, leaf = block.name.rpartition(".")
        try:
            is_training = model.get_submodule(block.name).training
            model.get_submodule(parent).register_module(leaf, PassOn(block.num_outputs).train(is_training))
        except AttributeError:
            raise ValueError(
                f"the plan takes out {block.name}, which this model does not have: it was made for another model"
            ) from None
    return model


def zeroed_writers(model: nn.Module, blocks: Sequence[ResidualBlock]) -> dict[str, Tensor]:
    """Tensors at zero by which a model computes what it computes without blocks, by name."""
    names = {name for block in blocks for name in block.writers}
    tensors = dict(chain(model.named_parameters(), model.named_buffers()))
    return {name: torch.zeros_like(tensors[name].detach()) for name in sorted(names)}
