"""How do tied labels become groups of units?"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import torch
from torch import Tensor

from snp.graph.frozen import reasons_of_frozen
from snp.graph.headgroups import HeadUnits, freeze_unwanted, group_of, head_units
from snp.graph.partitions import Evenness
from snp.graph.traced import HEAD_DIMENSION
from snp.graph.tracer import Tracer
from snp.graph.units import Slice, UnitGroup, module_of

__all__ = ["collect_groups"]

Component = dict[tuple[str, int], list[int]]  # (tensor, dim) -> indices


def collect_groups(tracer: Tracer) -> tuple[tuple[UnitGroup, ...], dict[str, str]]:
    """Groups of units that may be cut, in order of their first producer, and why other producers may not."""
    freeze_unwanted(tracer)
    _tie_chunks(tracer)
    _freeze_double_uses(tracer)
    _freeze_buffers(tracer)
    _freeze_level_axes(tracer)
    spaces = dict(tracer.dims)
    for name, labels in tracer.elements.items():
        dim = _sliceable_dim(tracer, labels)
        if dim is None:
            tracer.labels.freeze(labels, f"units do not lie along one dimension of {name}")
        else:
            spaces[(name, dim)] = labels.movedim(dim, 0).reshape(labels.shape[dim], -1)[:, 0]
    components: dict[int, Component] = defaultdict(lambda: defaultdict(list))
    for key, labels in spaces.items():
        for index, root in enumerate(tracer.labels.roots(labels).tolist()):
            components[root][key].append(index)
    open_ones = {root: component for root, component in components.items() if tracer.labels.frozen_reason(root) is None}
    groups = _group(tracer, open_ones)
    return groups, reasons_of_frozen(tracer, groups)


def _tie_chunks(tracer: Tracer) -> None:
    """Units at equal places of equal parts go together: what is left is then divided at the right place again.

    Not in attention, where queries, keys and values of other sizes are told to the module.
    """
    calls = [part for call in tracer.calls for part in (call.query, call.key, call.value) if part is not None]
    of_heads = set(torch.cat([tracer.labels.roots(part).reshape(-1) for part in calls]).tolist()) if calls else set()
    for first, *others in tracer.chunks:
        for other in others:
            if first.shape == other.shape and of_heads.isdisjoint(tracer.labels.roots(other).reshape(-1).tolist()):
                tracer.labels.tie(first, other)


def _freeze_double_uses(tracer: Tracer) -> None:
    """Freeze tensors that are used in two ways whose labels, or whose fitted weights, would contradict each other."""
    for (name, dim), labels in list(tracer.dims.items()):
        if name in tracer.elements:
            reason = f"{name} is used by a layer and as a plain tensor"
            tracer.labels.freeze(tracer.elements[name], reason)
            tracer.labels.freeze(labels, reason)
        elif name in tracer.embeddings and name in tracer.positions and dim == 1:
            # Folding changes the columns that a reader sees, and would change the embedding with them.
            tracer.labels.freeze(labels, f"{name} is an embedding and a reader at once")


def _freeze_buffers(tracer: Tracer) -> None:
    """A kernel that nobody trains is not fitted; one that passes units on can be cut along with them."""
    for (name, _), labels in list(tracer.dims.items()):
        if name in tracer.buffers - tracer.depthwise:
            tracer.labels.freeze(labels, f"its units meet {name}, a buffer, and only parameters are cut and fitted")


def _sliceable_dim(tracer: Tracer, labels: Tensor) -> int | None:
    """The one dimension along which components change, or None."""
    roots = tracer.labels.roots(labels)
    for dim in range(labels.ndim):
        rows = roots.movedim(dim, 0).reshape(labels.shape[dim], -1)
        if labels.shape[dim] > 1 and bool((rows == rows[:, :1]).all()):
            return dim
    return None


def _role(tracer: Tracer, tensor: str, dim: int) -> str:
    if tensor in tracer.depthwise:
        return "other"  # it passes units on and computes no new one
    if tensor in tracer.readings:
        return "consumer" if dim == tracer.readings[tensor].input_dim else "producer"
    # An embedding's columns are units of its own making.
    return "producer" if dim == 1 and (tensor, 0) not in tracer.dims and tensor.endswith(".weight") else "other"


def _group(tracer: Tracer, components: dict[int, Component]) -> tuple[UnitGroup, ...]:
    by_signature: dict[tuple[tuple[str, int, int], ...], list[int]] = defaultdict(list)
    for root, component in components.items():
        by_signature[tuple(sorted((*key, len(indices)) for key, indices in component.items()))].append(root)
    groups: list[UnitGroup] = []
    heads = head_units(tracer)
    of_heads = {root for units in heads for root in units.roots}
    multiplied = {root for units in heads if units.kind in ("qk", "dims") for root in units.roots}
    order = {name: position for position, name in enumerate(tracer.readers)}
    evenness, normed = Evenness(tracer), _roots_of_normed(tracer)
    for signature, found in by_signature.items():
        keys = sorted(((tensor, dim) for tensor, dim, _ in signature), key=lambda key: (order.get(key[0], -1), key))
        units, most = None, max(count for *_, count in signature)
        try:
            if not of_heads.isdisjoint(found):
                units = group_of(heads, found)
                if units is None and not multiplied.isdisjoint(found):
                    raise ValueError(HEAD_DIMENSION)  # with some of the queries and keys only no mask would be right
            _refuse_normed(tracer, normed, found)
            roots, num_partitions = _cuttable(tracer, evenness, keys, most, found, units)
        except ValueError as error:
            tracer.labels.freeze(torch.tensor(found), str(error))
            continue
        slices: dict[str, list[Slice]] = {"producer": [], "consumer": [], "other": []}
        for tensor, dim in keys:
            index = torch.tensor([components[root][(tensor, dim)] for root in roots], dtype=torch.int64)
            slices[_role(tracer, tensor, dim)].append(Slice(tensor, dim, index, tracer.blocks.get((tensor, dim), 1)))
        producers, consumers, others = (tuple(slices[role]) for role in ("producer", "consumer", "other"))
        name, is_stream = module_of(producers[0].tensor), any(tracer.labels.is_stream(root) for root in roots)
        is_stream = is_stream and units is None  # sums inside a head (rotary embeddings) are none
        kind = units.kind if units is not None else _kind(tracer, producers + consumers)
        kind = kind if normed.isdisjoint(roots) else "width"
        groups.append(UnitGroup(name, len(roots), producers, consumers, others, is_stream, num_partitions, kind))
    groups.sort(key=lambda group: order.get(group.producers[0].tensor, -1))
    return _with_names(groups)


def _freeze_level_axes(tracer: Tracer) -> None:
    """Of a stream in front of LayerNorm the first unit stays: the mean of all units, once the stream is turned."""
    for units, centres in tracer.norms.met:
        if centres and any(map(tracer.labels.is_stream, units.tolist())):
            tracer.labels.freeze(units[:1], "the direction that LayerNorm takes away")


def _roots_of_normed(tracer: Tracer) -> set[int]:
    """Units that meet norms which allow a cut (:mod:`snp.graph.stream_norms`)."""
    return {root for units, _ in tracer.norms.met for root in tracer.labels.roots(units).tolist()}


def _refuse_normed(tracer: Tracer, normed: set[int], roots: list[int]) -> None:
    """Only a stream, to which layers add up, may be turned in front of a norm: what is rectified may not."""
    if not normed.isdisjoint(roots) and not any(map(tracer.labels.is_stream, roots)):
        raise ValueError("normalised together with other units, and no residual stream")


def _kind(tracer: Tracer, members: tuple[Slice, ...]) -> str:
    return "conv" if any(member.tensor in tracer.convolutions for member in members) else "ffn"


def _with_names(groups: list[UnitGroup]) -> tuple[UnitGroup, ...]:
    """Groups named after what they are in an attention layer, and numbered where a name is taken."""
    taken: dict[str, int] = defaultdict(int)
    named = []
    for group in groups:
        name = group.name if group.kind in ("conv", "ffn") else f"{group.name}:{group.kind}"
        taken[name] += 1
        named.append(replace(group, name=name if taken[name] == 1 else f"{name}#{taken[name]}"))
    return tuple(named)


def _cuttable(
    tracer: Tracer,
    evenness: Evenness,
    keys: list[tuple[str, int]],
    most: int,
    roots: list[int],
    heads: HeadUnits | None,
) -> tuple[list[int], int]:
    """Units in order and the number of partitions; a ValueError says why they cannot be cut.

    A unit has at most so many indices in any of the tensors.
    """
    roles = {_role(tracer, tensor, dim) for tensor, dim in keys}
    if len(roots) < 2:
        raise ValueError("is a single unit" if most < 2 else "its units are tied to each other: all go, or none")
    if "producer" not in roles:
        raise ValueError("has no producer inside the network")
    if "consumer" not in roles and (heads is None or heads.kind != "qk"):
        raise ValueError("has no reader inside the network")
    if heads is None:
        return evenness.partitions(roots)
    if len(heads.roots) == heads.num_partitions > 1 or evenness.partitions(roots)[1] > 1:
        raise ValueError(HEAD_DIMENSION)
    return list(heads.roots), heads.num_partitions
