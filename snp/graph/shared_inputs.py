"""Which values of a batch belong to all samples, and does the model take the others?  It is run to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snp.graph.batches import Batch

__all__ = ["HOW", "refuse_not_finite", "shared_places"]

HOW = "yield tensors, (inputs, labels) pairs, tuples of all inputs, or mappings of keyword arguments"


def refuse_not_finite(model: nn.Module, batch: Batch) -> None:
    """Minus infinity in a mask is right; what makes outputs infinite, and NaN anywhere, is not.

    Raises:
        ValueError: a parameter or an input is not finite, and neither are the outputs.
    """
    held = [*model.named_parameters(), *((f"the first batch at {place}", value) for place, value in batch.places)]
    wrong = [name for name, value in held if isinstance(value, Tensor) and not bool(torch.isfinite(value).all())]
    if wrong and not all(bool(torch.isfinite(leaf).all()) for leaf in _outputs(model, batch)):
        raise ValueError(f"{wrong[0]} holds NaN or infinite values, and so do the model's outputs: mend it first")


def shared_places(model: nn.Module, batch: Batch) -> frozenset[str]:
    """Places of tensors that belong to all samples: some samples alone then give the outputs that they gave before."""
    tensors = {place: value for place, value in batch.places if isinstance(value, Tensor) and value.ndim > 0}
    whole = _outputs(model, batch)  # also says what is wrong before any work is done
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
        part = _outputs(model, batch.first(count))
    except ValueError:
        return False
    if len(part) != len(whole):
        return False
    pairs = [(mine, all_[: len(mine)]) for mine, all_ in zip(part, whole, strict=True) if mine.ndim > 0]
    return all(
        len(mine) == count and mine.shape == of_all.shape and torch.allclose(mine, of_all, rtol=1e-3, atol=1e-4)
        for mine, of_all in pairs
    )


def _outputs(model: nn.Module, batch: Batch) -> list[Tensor]:
    try:
        with torch.no_grad():
            found = batch.beside(model).call(model)
    except Exception as error:  # whatever the model's own code says to inputs that it does not take
        first = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        shapes = {place: f"{tuple(v.shape)} {v.dtype}" for place, v in batch.places if isinstance(v, Tensor)}
        told = ", ".join(f"{place} {shape}" for place, shape in shapes.items())
        raise ValueError(
            f"the model does not take the first batch ({told}): {type(error).__name__}: {first}. Batches must {HOW}"
        ) from error
    leaves = pytree.tree_leaves(found)
    return [leaf.double() for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
