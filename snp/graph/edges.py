"""Are the rows of an input nodes of a graph, which cannot be looked at some at a time?

Edges hold positions in them. A node alone has no neighbours, and the positions of its edges point at nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from snp.graph.batches import Batch
from snp.graph.shared_inputs import outputs_of, tensors_told

__all__ = ["SEVERAL_GRAPHS", "edges_told", "told_of_edges"]

SEVERAL_GRAPHS = (
    "Samples lie along the first dimension of every tensor and do not depend on each other: give graphs of one size, "
    "padded where they are not, nodes as [B, N, F] and edges as [B, 2, E] or [B, N, N], to a module around the network "
    "that puts them together (docs/extending.md shows one)"
)


@contextmanager
def told_of_edges(model: nn.Module, batch: Batch) -> Iterator[None]:
    """Inside the ``with`` block what the model says to some nodes without the others becomes a sentence.

    Args:
        model: takes the batch, in evaluation mode; it is run again only behind an error.
        batch: the first one.

    Raises:
        ValueError: there are edges among the inputs, and the model does not take a part of them.
    """
    try:
        yield
    except Exception as error:
        if not _is_of_model(error) or not (told := edges_told(batch)) or _takes_part(model, batch):
            raise
        raise ValueError(
            f"the model takes the first batch ({tensors_told(batch)}), but not its last samples alone: {told}. "
            f"{SEVERAL_GRAPHS}"
        ) from error


def edges_told(batch: Batch) -> str:
    """Which tensor of a batch holds edges between the rows of which other one, in words; empty where none does."""
    tensors = [(place, value) for place, value in batch.places if isinstance(value, Tensor)]
    for place, value in tensors:
        for other, nodes in tensors:
            if place != other and nodes.ndim > 0 and _are_edges(value, len(nodes)):
                return f"{place} says which rows of {other} belong together, as the edges of a graph do"
    return ""


def _are_edges(tensor: Tensor, num_nodes: int) -> bool:
    """Pairs of positions, or a matrix with an entry for every pair."""
    if tensor.ndim != 2 or tensor.numel() == 0:
        return False
    if tensor.is_floating_point() or tensor.is_complex() or 2 not in tensor.shape:
        return tuple(tensor.shape) == (num_nodes, num_nodes)
    return bool(tensor.min() >= 0) and bool(tensor.max() < num_nodes)


def _is_of_model(error: Exception) -> bool:
    """Was it, or is behind it, what a model's own code raises to inputs that do not fit?"""
    cause = error.__cause__ if isinstance(error, ValueError) else error
    return type(cause) in (IndexError, RuntimeError)  # others are of memory, of devices, or our own


def _takes_part(model: nn.Module, batch: Batch) -> bool:
    try:
        outputs_of(model, batch.last(1))
    except ValueError:
        return False
    return True
