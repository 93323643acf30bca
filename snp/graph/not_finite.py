"""Do a network's outputs stop being finite, and where?  Said before analyses that could only wonder at it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snp.graph.batches import Batch
from snp.graph.shared_inputs import outputs_of

__all__ = ["refuse_not_finite", "refuse_outputs_not_finite"]


def refuse_not_finite(model: nn.Module, batch: Batch) -> None:
    """Minus infinity in a mask is right; what makes outputs infinite, and NaN anywhere, is not.

    Raises:
        ValueError: a parameter or an input is not finite, and neither are the outputs.
    """
    held = [*model.named_parameters(), *((f"the first batch at {place}", value) for place, value in batch.places)]
    wrong = [name for name, value in held if isinstance(value, Tensor) and not _is_finite(value)]
    if wrong and not all(map(_is_finite, outputs_of(model, batch))):
        raise ValueError(f"{wrong[0]} holds NaN or infinite values, and so do the model's outputs: mend it first")


def refuse_outputs_not_finite(model: nn.Module, batch: Batch) -> None:
    """For a network in which no trial cut computes what it should: is it the dense one that computes nothing?

    Raises:
        ValueError: its outputs are not finite; the first layer that gives such values is named.
    """
    found: list[str] = []

    def look(name: str, kind: str, output: Any) -> None:
        if not found and not all(_is_number(leaf) for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)):
            found.append(f"{name} ({kind})")

    layers = [(name, layer) for name, layer in model.named_modules() if name and not any(layer.children())]
    hooks = [
        layer.register_forward_hook(lambda layer, _, output, name=name: look(name, type(layer).__name__, output))
        for name, layer in layers
    ]
    try:
        is_sound = all(map(_is_number, outputs_of(model, batch)))
    finally:
        for hook in hooks:
            hook.remove()
    if not is_sound:
        where = f"; the first layer that gives such values is {found[0]}" if found else ""
        raise ValueError(
            f"the outputs of the dense network hold NaN or infinite values in evaluation mode{where}: mend its weights "
            "and buffers (a running variance below 0 does this, too), or give other inputs"
        )


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _is_number(tensor: Tensor) -> bool:
    """Minus infinity may be meant, as of a class or a token that is never to be chosen."""
    return not bool((torch.isnan(tensor) | torch.isposinf(tensor)).any())
