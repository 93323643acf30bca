"""Which products turn queries and keys by an angle per position?  Rotary embeddings, and the tables they read.

The table holds sines and cosines of positions, one for each pair of dimensions, and is the same for all heads and all
layers. A dimension of a head meets its own entries only, so it can go by itself as soon as the code that attends picks
the entries of those that are left (:class:`snp.surgery.attention_separate.SeparateAttention` does). The two dimensions
of a pair, which are added up, go together. All else that meets such a table stays whole.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from snp.graph.labels import distinct
from snp.graph.tracer import Tracer

__all__ = ["SHARED", "table_of", "turned_by_table"]

SHARED = "shares a value with units of another head, branch or group, as rotary embeddings and weights of a stack do"


def table_of(tracer: Tracer, node: fx.Node, operands: list[Tensor]) -> Tensor | None:
    """Labels of sines or cosines of values that no cut changes, as products of positions are; None for all else.

    Entries of a buffer, or of a parameter, that met nothing but such values (frequencies) stay whole from here on.
    """
    if not _looks_for_tables(tracer) or _operator(node) not in ("sin", "cos") or len(operands) != 1:
        return None
    if not all(_is_fixed(tracer, label) for label in distinct(operands[0])):
        return None
    tracer.labels.freeze(operands[0], SHARED)
    labels = tracer.labels.constant(tuple(operands[0].shape), SHARED)
    tracer.tables.add(int(labels.reshape(-1)[0]))
    return labels


def _looks_for_tables(tracer: Tracer) -> bool:
    return "qk" in tracer.structures and not tracer.equal_sizes


def _is_fixed(tracer: Tracer, label: int) -> bool:
    if tracer.labels.frozen_reason(label) is not None:
        return True
    entries = (own.reshape(-1) for own in tracer.elements.values())
    return any(bool(own[0] <= label <= own[-1]) for own in entries) and tracer.labels.are_alone(torch.tensor(label))


def turned_by_table(tracer: Tracer, node: fx.Node, operands: list[Tensor], shape: tuple[int, ...]) -> Tensor | None:
    """Labels of activations, of that shape, times entries of a table; None for all else.

    Whether they are queries or keys is known later on: :func:`snp.graph.headgroups.freeze_unwanted` freezes all others.
    """
    if not _looks_for_tables(tracer) or _operator(node) != "mul" or len(operands) != 2:
        return None
    for units, table in (operands, operands[::-1]):
        if set(distinct(table)) <= tracer.tables and tuple(units.shape) == shape:
            if not tracer.labels.are_constant(units):
                tracer.turned.append(torch.tensor(distinct(units)))
            return units
    return None


def _operator(node: fx.Node) -> str:
    return str(node.target).split(".")[1] if isinstance(node.target, torch._ops.OpOverload) else ""
