"""Which outputs does a network have, and are they class logits or something else?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree

from snp.graph.batches import Batch
from snp.measure.objective import Objective, Output, floating, named_outputs, nothing_real
from snp.measure.spread import variance_of, without_padding
from snp.measure.taps import is_transformed

__all__ = ["beside_spread_of", "first_tensor", "most_remembered", "objective_of"]

# Samples that the spread of an output is taken from.
_MOST_SAMPLES = 256
# Values of outputs that are kept to compare others with.
_MOST_REMEMBERED = 2**26
# Activations that the next token's computation is spared, no results.
_CACHES = ("past_key_values", "cache", "mems")
# What encoders of Hugging Face make of one token of the other beside it: counted, that token would weigh half of all.
_SUMMARY, _WHOLE = "pooler_output", "last_hidden_state"
_Place = tuple[int, int, int]  # of values in memory: storage, offset, number


def objective_of(
    model: nn.Module, batches: Sequence[Batch], wanted: str | Callable[[Any, Any], Any] = "auto"
) -> Objective:
    """The objective of a network.

    ``auto`` takes for class logits what is called so; the only output [N, K] of a network, with K > 1, that a layer
    gives out as it is, or whose exponentials sum to one; and the only output [N, T, K] where token numbers go in, if a
    layer gives it out or a table has K rows.

    Args:
        model: in evaluation mode.
        batches: calibration inputs on its device.
        wanted: ``auto``, ``kl``, ``squared``, or a function of the dense network's output and another's.

    Raises:
        ValueError: the output holds no floating tensor.
    """
    few, made = _first(batches), dict[_Place, StorageWeakRef]()
    with torch.no_grad():
        first = _watched(model, few[0], made)
        numbered = [(place, *each) for place, each in enumerate(named_outputs(first))]
        named = _results(numbered)
        if not named:
            raise ValueError(nothing_real(first))
        chosen = [_class_dim(model, name, leaf, wanted, len(named), few[0], made) for _, name, leaf in named]
        outputs = [first] + [batch.call(model) for batch in few[1:] if None in chosen]
    found = []
    for (place, name, leaf), class_dim in zip(named, chosen, strict=True):
        # Vectors of tokens are compared as vectors (by their angle, mostly): their features share one spread. Channels
        # of other outputs may be of different kinds, boxes beside scores, and each has its own.
        is_vector = leaf.ndim == 3 and _reads_tokens(few[0])
        channel_dim = None if leaf.ndim < 2 or is_vector else leaf.ndim - 1 if leaf.ndim == 3 else 1
        seen = outputs if class_dim is None else outputs[:1]
        found.append(Output(name, place, class_dim, channel_dim, _spread(place, channel_dim, seen, few)))
    return Objective(tuple(found), wanted if callable(wanted) else None)


def beside_spread_of(objective: Objective, model: nn.Module, batches: Sequence[Batch]) -> Objective:
    """The same objective, with squared errors beside the spread that outputs have over these samples.

    Args:
        objective: of :func:`objective_of`.
        model: in evaluation mode.
        batches: on its device; none change nothing.
    """
    if not batches or all(output.class_dim is not None for output in objective.outputs):
        return objective
    few = _first(batches)
    with torch.no_grad():
        seen = [batch.call(model) for batch in few]
    outputs = (
        output
        if output.class_dim is not None
        else replace(output, variance=_spread(output.place, output.channel_dim, seen, few))
        for output in objective.outputs
    )
    return replace(objective, outputs=tuple(outputs))


def most_remembered(model: nn.Module, batch: Batch) -> int:
    """Of how many samples the outputs may be remembered, at least one.

    Args:
        model: in evaluation mode.
        batch: on its device; its first sample tells how many values an output has.
    """
    with torch.no_grad():
        leaves = pytree.tree_leaves(batch.first(1).call(model))
    per_sample = sum(leaf.numel() for leaf in leaves if isinstance(leaf, Tensor))
    return max(1, _MOST_REMEMBERED // max(1, per_sample))


def _spread(place: int, channel_dim: int | None, outputs: Sequence[Any], batches: Sequence[Batch]) -> Tensor:
    """Variance of one floating tensor of the outputs, without the padding of the batches that they come from."""
    leaves = ((floating(output), batch) for output, batch in zip(outputs, batches, strict=False))
    return variance_of(
        [without_padding(each[place], batch) for each, batch in leaves if place < len(each)], channel_dim
    )


def _first(batches: Sequence[Batch]) -> list[Batch]:
    """As many batches as hold the samples that are looked at, or all."""
    before = accumulate((batch.size for batch in batches), initial=0)
    return [batch for batch, count in zip(batches, before, strict=False) if count < _MOST_SAMPLES]


def _results(outputs: Sequence[tuple[int, str, Tensor]]) -> list[tuple[int, str, Tensor]]:
    """Outputs that are asked for: no caches, and no summary of another output."""
    names = {name for _, name, _ in outputs}
    return [
        each
        for each in outputs
        if not any(word in each[1] for word in _CACHES) and each[1].replace(_SUMMARY, _WHOLE) not in names - {each[1]}
    ]


def _watched(model: nn.Module, batch: Batch, made: dict[_Place, StorageWeakRef]) -> Any:
    """The output, with the places in memory of what layers with weights gave out; held weakly, which uses none."""

    def note(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not is_transformed(output):
            made[_place_of(output)] = StorageWeakRef(output.untyped_storage())  # its name goes to no other

    with ExitStack() as hooks:
        for layer in (each for each in model.modules() if getattr(getattr(each, "weight", None), "ndim", 0) >= 2):
            hooks.enter_context(layer.register_forward_hook(note))
        return batch.call(model)


def _place_of(tensor: Tensor) -> _Place:
    return tensor.untyped_storage()._cdata, int(tensor.storage_offset()), tensor.numel()


def _class_dim(
    model: nn.Module,
    name: str,
    leaf: Tensor,
    wanted: Any,
    num_outputs: int,
    batch: Batch,
    made: dict[_Place, StorageWeakRef],
) -> int | None:
    """Dimension of the classes; None where a squared error counts."""
    dim = 2 if leaf.ndim == 3 else 1
    if wanted == "squared" or leaf.ndim < 2 or leaf.shape[dim] < 2:
        return None
    if wanted == "kl" or "logits" in name:
        return dim
    if wanted != "auto" or num_outputs > 1:
        return None
    reads_tokens = _reads_tokens(batch)
    is_plain = _place_of(leaf) in made
    if leaf.ndim == 3 and reads_tokens:
        tables = {module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)}
        return dim if is_plain or leaf.shape[dim] in tables else None
    if leaf.ndim == 2 and is_plain:
        return dim
    sums_to_one = leaf.ndim == 2 and bool((leaf.float().logsumexp(dim=1).abs() < 1e-3).all())
    return dim if sums_to_one else None


def _reads_tokens(batch: Batch) -> bool:
    return any(isinstance(value, Tensor) and not value.is_floating_point() for value in batch.leaves)


def first_tensor(output: Any) -> Tensor:
    """The first tensor of a model's output: the logits, where it gives out more than those.

    Raises:
        ValueError: there is none.
    """
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Tensor):
            return leaf
    raise ValueError(f"the model's output holds no tensor of logits: it is a {type(output).__name__}")
