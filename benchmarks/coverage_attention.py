"""What can be cut where attention is asked for, too?  The share of the MACs, and an audit of every group in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from snp.graph.batches import Batch
from snp.graph.heads import AttentionLayer
from snp.graph.units import Slice, UnitGroup, module_of
from snp.surgery.audit import audit, control
from snp.surgery.subject import Subject

__all__ = ["EVERYTHING", "moved"]

# What `prune.structures` may hold: hidden units, and in attention dimensions of values and queries, and whole heads.
EVERYTHING = ("ffn", "vo", "qk", "heads")


def moved(subject: Subject, group: UnitGroup, batch: Batch, seed: int = 0) -> tuple[float, float]:
    """How far the output moves with units of an attention layer that nothing reads, and with the same ones as they are.

    Queries and keys are read by each other: with one of them zero the other may be anything.
    """
    pairs = list(_each_silent(group, subject.graph.attention)) if group.is_multiplied else [group]
    return (
        max(audit(subject.model, [pair], batch, seed=seed) for pair in pairs),
        max(control(subject.model, [pair], batch, seed=seed) for pair in pairs),
    )


def _each_silent(group: UnitGroup, layers: tuple[AttentionLayer, ...]) -> Iterator[UnitGroup]:
    """The group with its queries in the place of readers, and with its keys."""
    layer = next(layer for layer in layers if layer.query.is_in(group.producers))
    queries, keys = (_of_rows(group, rows) for rows in (layer.query, layer.key))
    # A norm behind a projection would make something of its zeros; whose norm it is the group does not say.
    norms = tuple(m for m in group.others if m.tensor not in {part.tensor for part in queries + keys})
    for silent, changed in ((queries, keys), (keys, queries)):
        yield replace(group, producers=changed, consumers=silent + norms, others=())


def _of_rows(group: UnitGroup, rows: Slice) -> tuple[Slice, ...]:
    """What the units own of some rows of a weight, and of the bias beside it."""
    found = []
    for member in group.producers + group.others:
        dim = rows.dim if member.tensor == rows.tensor else 0  # of the bias
        if member.dim == dim and module_of(member.tensor) == module_of(rows.tensor):
            index = member.index[torch.isin(member.index, rows.index)].reshape(len(member.index), -1)
            found.append(replace(member, index=index))
    return tuple(found)
