"""Which values of a batch belong to all samples, and does the model take the others?  It is run to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snp.graph.batches import Batch

__all__ = ["HOW", "outputs_of", "shared_places", "tensors_told"]

HOW = "yield tensors, (inputs, labels) pairs, tuples of all inputs, or mappings of keyword arguments"


def shared_places(model: nn.Module, batch: Batch, whole: Sequence[Tensor]) -> frozenset[str]:
    """Places of tensors that belong to all samples: some samples alone then give the outputs that they gave before.

    Args:
        model: in evaluation mode.
        batch: the first one.
        whole: its outputs.
    """
    tensors = {place: value for place, value in batch.places if isinstance(value, Tensor) and value.ndim > 0}
    if len(tensors) < 2:
        return frozenset()
    sizes = {len(leaf) for leaf in whole if leaf.ndim > 0}
    likely = frozenset(place for place, value in tensors.items() if len(value) not in sizes)
    others = (frozenset(some) for count in range(len(tensors)) for some in combinations(tensors, count))
    for shared in [likely, *others]:
        if len(shared) < len(tensors) and _is_told(model, replace(batch, shared=shared), whole):
            return shared
    return likely if len(likely) < len(tensors) else frozenset()


def _is_told(model: nn.Module, batch: Batch, whole: Sequence[Tensor]) -> bool:
    """Do the first samples alone give the first rows of all outputs?"""
    sizes = {len(value) for place, value in batch.places if isinstance(value, Tensor) and value.ndim > 0
             and place not in batch.shared}  # fmt: skip
    if len(sizes) != 1 or batch.size < 2:
        return len(sizes) == 1
    count = (batch.size + 1) // 2
    try:
        part = outputs_of(model, batch.first(count))
    except ValueError:
        return False
    if len(part) != len(whole):
        return False
    pairs = [(mine, all_[: len(mine)]) for mine, all_ in zip(part, whole, strict=True) if mine.ndim > 0]
    return all(
        len(mine) == count and mine.shape == of_all.shape and torch.allclose(mine, of_all, rtol=1e-3, atol=1e-4)
        for mine, of_all in pairs
    )


def outputs_of(model: nn.Module, batch: Batch, which: str = "the first batch") -> list[Tensor]:
    """Every floating tensor that a model gives for a batch, in double precision.

    Args:
        model: in evaluation mode.
        batch: on any device.
        which: batch this is.

    Raises:
        ValueError: the model does not take it.
    """
    try:
        with torch.no_grad():
            found = batch.beside(model).call(model)
    except Exception as error:  # whatever the model's own code says to inputs that it does not take
        first = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        raise ValueError(
            f"the model does not take {which} ({tensors_told(batch)}): {type(error).__name__}: {first}. "
            f"Batches must {HOW}"
        ) from error
    leaves = pytree.tree_leaves(found)
    return [leaf.detach().double() for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def tensors_told(batch: Batch) -> str:
    """Place, shape and type of every tensor of a batch."""
    return ", ".join(f"{place} {tuple(v.shape)} {v.dtype}" for place, v in batch.places if isinstance(v, Tensor))
