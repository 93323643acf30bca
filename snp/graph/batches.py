"""How is a batch handed to a model?"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = [
    "beside",
    "call",
    "device_of",
    "example_of",
    "first_samples",
    "first_tensor",
    "inputs_of",
    "num_samples",
    "repeated",
    "to_device",
]


def example_of(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments for the model in a batch.

    A tensor is the model's input; of a tuple or list the first entry is (the rest are labels); a mapping holds
    keyword arguments, without ``labels``.

    Raises:
        ValueError: the batch is something else.
    """
    if isinstance(batch, Tensor):
        return (batch,), {}
    if isinstance(batch, Mapping):
        return (), {key: value for key, value in batch.items() if key != "labels"}
    if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], (Tensor, Mapping)):
        return example_of(batch[0])
    raise ValueError(
        "batches must yield tensors, (inputs, labels) pairs or mappings of keyword arguments; "
        f"found {type(batch).__name__}"
    )


def to_device(value: Any, device: torch.device | str) -> Any:
    """The same nest of tuples, lists and mappings with its tensors on ``device``."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: to_device(entry, device) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(to_device(entry, device) for entry in value)
    return value


def beside(model: nn.Module, batch: Any) -> Any:
    """A batch on the device of the model's first parameter (or buffer): what a model and its inputs agree by."""
    return to_device(batch, device_of(model))


def device_of(model: nn.Module) -> torch.device:
    """Device of the first parameter or buffer; the CPU for a model that has none."""
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def call(model: nn.Module, batch: Any) -> Any:
    """The model's output for the inputs of a batch."""
    args, kwargs = example_of(batch)
    return model(*args, **kwargs)


def first_tensor(output: Any) -> Tensor:
    """The first tensor of a model's output: the logits, where it gives out more than those.

    Raises:
        ValueError: there is none.
    """
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Tensor):
            return leaf
    raise ValueError(f"the model's output holds no tensor of logits: it is a {type(output).__name__}")


def num_samples(batch: Any) -> int:
    """Size of the batch dimension."""
    args, kwargs = example_of(batch)
    return next(len(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor))


def inputs_of(batch: Any) -> Any:
    """A batch without its labels: the input tensor, or the mapping of keyword arguments."""
    args, kwargs = example_of(batch)
    return args[0] if args else kwargs


def first_samples(batch: Any, count: int) -> Any:
    """The inputs of a batch (no labels) cut to its first ``count`` samples."""
    args, kwargs = example_of(batch)
    if args:
        return args[0][:count]
    return {key: value[:count] if isinstance(value, Tensor) else value for key, value in kwargs.items()}


def repeated(batch: Any, count: int) -> Any:
    """The inputs of a batch (no labels), its samples repeated in order up to ``count``."""
    args, kwargs = example_of(batch)
    order = torch.arange(count) % num_samples(batch)
    if args:
        return args[0][order.to(args[0].device)]
    return {key: value[order.to(value.device)] if isinstance(value, Tensor) else value for key, value in kwargs.items()}
