"""How do the labels of attention calls become layers, and their dimensions or heads groups of units?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from snp.graph.heads import AttentionLayer
from snp.graph.rotary import SHARED
from snp.graph.traced import HEAD_DIMENSION, Call
from snp.graph.tracer import Tracer
from snp.graph.units import Slice, UnitGroup

__all__ = ["HeadUnits", "attention_layers", "freeze_unwanted", "group_of", "head_units", "products_of"]


@dataclass(frozen=True, eq=False)
class HeadUnits:
    """Units of one attention layer.

    Attributes:
        kind: ``vo``, ``qk``, ``dims`` (both, of equal sizes) or ``heads``.
        roots: component of each unit, partition by partition.
        num_partitions: heads that keep equal numbers of units.
    """

    kind: str
    roots: tuple[int, ...]
    num_partitions: int


def freeze_unwanted(tracer: Tracer) -> None:
    """Freeze the dimensions of heads that are not asked for, and calls of which only half was understood.

    What meets tables of rotary embeddings stays whole, but for the queries and keys of calls that were understood.
    """
    understood = [call for call in tracer.calls if _layer(tracer, call) is not None]
    parts = [labels.reshape(-1) for call in understood for labels in (call.query, call.key)]
    for turned in tracer.turned:
        roots = tracer.labels.roots(turned)
        tracer.labels.freeze(
            roots[~torch.isin(roots, tracer.labels.roots(torch.cat(parts)))] if parts else roots, SHARED
        )
    for call in tracer.calls:
        if call.value is None or _layer(tracer, call) is None:
            for labels in (call.query, call.key, *(() if call.value is None else (call.value,))):
                tracer.labels.freeze(labels, HEAD_DIMENSION)
        elif not tracer.whole_heads:
            wanted = {"qk", "vo"} <= tracer.structures if tracer.equal_sizes else None
            if not (wanted if wanted is not None else "qk" in tracer.structures):
                tracer.labels.freeze(call.query, f"{HEAD_DIMENSION} (prune.structures leaves it whole)")
            if not (wanted if wanted is not None else "vo" in tracer.structures):
                tracer.labels.freeze(call.value, f"{HEAD_DIMENSION} (prune.structures leaves it whole)")


def attention_layers(tracer: Tracer) -> tuple[AttentionLayer, ...]:
    """Every layer that was understood, once, in execution order."""
    found: dict[tuple[str, str, str], AttentionLayer] = {}
    for call in tracer.calls:
        layer = _layer(tracer, call)
        if layer is not None:
            found.setdefault((layer.query.tensor, layer.key.tensor, str(layer.query.index.tolist())), layer)
    return tuple(found.values())


def products_of(tracer: Tracer, groups: Sequence[UnitGroup]) -> tuple[int, tuple[tuple[int, tuple[str, ...]], ...]]:
    """Multiply-accumulates per sample of products that no cut changes, and of each other one with its groups."""
    fixed, products = tracer.fixed_macs, []
    for call in tracer.calls:
        layer = _layer(tracer, call)
        query, value = (None, None) if layer is None else (layer.query, layer.value)
        for macs, rows in ((call.score_macs, query), (call.value_macs, value)):
            names = () if rows is None else tuple(g.name for g in groups if rows.is_in(g.producers))
            if names:
                products.append((macs // tracer.num_samples, names))
            else:
                fixed += macs
    owners = _owners(tracer, [group for group in groups if group.kind != "heads"])
    for macs, labels, _ in tracer.products:
        shares = Counter(owners.get(root, "") for root in tracer.labels.roots(labels).tolist())
        fixed += macs * shares.pop("", 0) // len(labels)
        products += [(macs * n // (len(labels) * tracer.num_samples), (name,)) for name, n in shares.items()]
    return fixed // tracer.num_samples, tuple(products)


def _owners(tracer: Tracer, groups: Sequence[UnitGroup]) -> dict[int, str]:
    """Component -> the group whose unit it is."""
    found: dict[int, str] = {}
    for group in groups:
        first = group.producers[0]
        roots = tracer.labels.roots(tracer.dims[(first.tensor, first.dim)][first.index[:, 0]])
        found |= dict.fromkeys(roots.tolist(), group.name)
    return found


def head_units(tracer: Tracer) -> list[HeadUnits]:
    """Units of all calls that were understood."""
    found = []
    for call in tracer.calls:
        if call.value is None or _layer(tracer, call) is None:
            continue
        first = _first_of_each(torch.cat([call.query, call.key, call.value], dim=1))
        if tracer.whole_heads:
            found.append(_units(tracer, "heads", call.value[first][:, :1], 1))
        elif tracer.equal_sizes:
            found.append(_units(tracer, "dims", call.value[first], None))
        else:
            found += [_units(tracer, "qk", call.key[first], None), _units(tracer, "vo", call.value[first], None)]
    return found


def _units(tracer: Tracer, kind: str, labels: Tensor, num_partitions: int | None) -> HeadUnits:
    roots = tracer.labels.roots(labels)
    rows = [list(dict.fromkeys(row)) for row in roots[_first_of_each(roots)].tolist()]  # rotary pairs are one unit
    return HeadUnits(kind, tuple(root for row in rows for root in row), num_partitions or len(rows))


def _first_of_each(rows: Tensor) -> Tensor:
    """Index of the first of equal rows, in order, shape [distinct rows]."""
    seen: dict[tuple[int, ...], int] = {}
    for index, row in enumerate(rows.tolist()):
        seen.setdefault(tuple(row), index)
    return torch.tensor(list(seen.values()), dtype=torch.int64)


def _layer(tracer: Tracer, call: Call) -> AttentionLayer | None:
    if call.value is None:
        return None
    first = _first_of_each(torch.cat([call.query, call.key, call.value], dim=1))
    parts = [_rows(tracer, labels[first]) for labels in (call.query, call.key, call.value)]
    if parts[0] is None or parts[1] is None or parts[2] is None:
        return None
    turned = tracer.labels.roots(torch.cat(tracer.turned)) if tracer.turned else torch.empty(0, dtype=torch.int64)
    is_rotary = bool(torch.isin(tracer.labels.roots(call.key), turned).any())
    return AttentionLayer(call.module, parts[0], parts[1], parts[2], call.implicit_scale, is_rotary)


def _rows(tracer: Tracer, labels: Tensor) -> Slice | None:
    """The rows of one weight that have these labels, in their shape; None where they are not rows of one weight."""
    for name in reversed(tracer.readers):
        is_plain = tracer.readings[name].output_dim == 0 and name not in tracer.spatial | tracer.depthwise
        rows = tracer.dims.get((name, 0)) if is_plain else None
        if rows is not None and int(rows[0]) <= int(labels.min()) and int(labels.max()) <= int(rows[-1]):
            return Slice(name, 0, labels - int(rows[0]))
    return None


def group_of(units: Sequence[HeadUnits], roots: Sequence[int]) -> HeadUnits | None:
    """The units whose components these are."""
    wanted = set(roots)
    return next((one for one in units if set(one.roots) == wanted), None)
