"""How do the labels of attention calls become layers, and their dimensions or heads groups of units?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from snp.graph.heads import AttentionLayer
from snp.graph.rotary import SHARED
from snp.graph.splits import components_of
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
            whole = () if rows is None else _owners_of(rows, [g for g in groups if g.kind == "heads"])
            parts = () if rows is None else _owners_of(rows, [g for g in groups if g.kind != "heads"])
            heads = tuple(name for name, _ in whole)
            size = 1 if rows is None else rows.index.numel()
            owned = [(macs * count // size, (name, *heads)) for name, count in parts]
            owned.append((macs - sum(part for part, _ in owned), heads))
            products += [(part // tracer.num_samples, names) for part, names in owned if part and names]
            fixed += sum(part for part, names in owned if not names)
    owners = _owners(tracer, [group for group in groups if group.kind != "heads"])
    for macs, labels, _ in tracer.products:
        shares = Counter(owners.get(root, "") for root in tracer.labels.roots(labels).tolist())
        fixed += macs * shares.pop("", 0) // len(labels)
        products += [(macs * n // (len(labels) * tracer.num_samples), (name,)) for name, n in shares.items()]
    return fixed // tracer.num_samples, tuple(products)


def _owners_of(rows: Slice, groups: Sequence[UnitGroup]) -> tuple[tuple[str, int], ...]:
    """Names of the groups that own some of these rows, and how many each."""
    found = []
    for group in groups:
        own = [m.index.reshape(-1) for m in group.producers if (m.tensor, m.dim) == (rows.tensor, rows.dim)]
        count = int(torch.isin(rows.index, torch.cat(own)).sum()) if own else 0
        found += [(group.name, count)] if count else []
    return tuple(found)


def _owners(tracer: Tracer, groups: Sequence[UnitGroup]) -> dict[int, str]:
    """Component -> the group whose unit it is."""
    found: dict[int, str] = {}
    for group in groups:
        found |= dict.fromkeys(components_of(tracer, group).tolist(), group.name)
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
            found += [*_by_width(tracer, call.key[first]), _units(tracer, "vo", call.value[first], None)]
    return found


def _units(tracer: Tracer, kind: str, labels: Tensor, num_partitions: int | None) -> HeadUnits:
    roots = tracer.labels.roots(labels)
    rows = [list(dict.fromkeys(row)) for row in roots[_first_of_each(roots)].tolist()]
    return HeadUnits(kind, tuple(root for row in rows for root in row), num_partitions or len(rows))


def _by_width(tracer: Tracer, keys: Tensor) -> list[HeadUnits]:
    """Dimensions of queries and keys [heads, D]; the pairs that rotary embeddings turn are units apart from others."""
    roots = tracer.labels.roots(keys)
    rows = [Counter(row) for row in roots[_first_of_each(roots)].tolist()]
    found = []
    for width in sorted({count for row in rows for count in row.values()}, reverse=True):
        units = [[root for root, count in row.items() if count == width] for row in rows]
        if len({len(row) for row in units}) > 1:
            return [_units(tracer, "qk", keys, None)]  # no group has just these, so all of them stay whole
        found.append(HeadUnits("qk", tuple(root for row in units for root in row), len(units)))
    return found


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
    """The outputs of one weight that have these labels, in their shape; None where they are not of one weight."""
    for name in reversed(tracer.readers):
        dim = tracer.readings[name].output_dim
        is_plain = (dim == 0 or name not in tracer.convolutions) and name not in tracer.spatial | tracer.depthwise
        rows = tracer.dims.get((name, dim)) if is_plain else None
        if rows is not None and int(rows[0]) <= int(labels.min()) and int(labels.max()) <= int(rows[-1]):
            return Slice(name, dim, labels - int(rows[0]))
    return None


def group_of(units: Sequence[HeadUnits], roots: Sequence[int]) -> HeadUnits | None:
    """The units whose components these are."""
    wanted = set(roots)
    return next((one for one in units if set(one.roots) == wanted), None)
