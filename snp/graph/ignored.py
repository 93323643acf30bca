"""Which groups does ``prune.ignore`` name, and what was meant by a pattern that names nothing?"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn

from snp.graph.units import UnitGroup

__all__ = ["ignored_groups", "is_ignored"]

_NUM_NEAR = 5


def ignored_groups(model: nn.Module, groups: Iterable[UnitGroup], patterns: Sequence[str]) -> dict[str, str]:
    """Groups that touch what the patterns name.

    A pattern (``*``, ``?``, ``[...]``) is compared with the name of the group, and with the name of every tensor that a
    unit of the group owns a part of (rows, columns, norm parameters) and of every module around that tensor. What a
    pattern names therefore keeps its shape, inputs included: ``layer2`` leaves everything in ``layer2`` alone.

    Args:
        model: the network that the groups belong to.
        groups: all that were found.
        patterns: as a user wrote them.

    Returns:
        Name of each group that is left alone -> the first pattern that names it.

    Raises:
        ValueError: a pattern names nothing in the network; the message lists near names.
    """
    named = {group.name: _names_of(group) for group in groups}
    for pattern in patterns:
        _refuse_unknown(model, named, pattern)
    found = {}
    for name, names in named.items():
        matching = [pattern for pattern in patterns if any(fnmatchcase(other, pattern) for other in names)]
        if matching:
            found[name] = matching[0]
    return found


def is_ignored(model: nn.Module, module: str, patterns: Sequence[str]) -> bool:
    """Does a pattern name a module, something inside of it, or what it lies in?"""
    inside = (name for name in _tensors(model) if name.startswith(f"{module}."))
    names = {name for tensor in inside for name in _around(tensor)}
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _tensors(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()] + [name for name, _ in model.named_buffers()]


def _names_of(group: UnitGroup) -> set[str]:
    names = {group.name}
    for member in group.members:
        names.update(_around(member.tensor))
    return names


def _around(tensor: str) -> Iterator[str]:
    """A tensor's name and those of the modules around it: ``a.b.weight``, ``a.b``, ``a``."""
    while tensor:
        yield tensor
        tensor = tensor.rpartition(".")[0]


def _refuse_unknown(model: nn.Module, groups: Iterable[str], pattern: str) -> None:
    known = dict.fromkeys([*groups, *(name for tensor in _tensors(model) for name in _around(tensor))])
    if any(fnmatchcase(name, pattern) for name in known):
        return
    near = difflib.get_close_matches(pattern.strip("*?."), known, _NUM_NEAR, cutoff=0.4)
    hint = f"near names: {', '.join(near)}" if near else f"the first names are {', '.join(list(known)[:_NUM_NEAR])}"
    raise ValueError(
        f"prune.ignore: {pattern!r} names no group, layer or tensor of {type(model).__name__}; {hint} "
        "(prune.dry_run=true lists all groups)"
    )
