"""Which sizes that modules keep are the sizes of parts into which tensors are split?

A network may divide a layer's output at sizes that its constructor wrote down (``self.split_indices``). They lie in
an attribute of the module that runs the split, as a list or as single numbers, so that they can follow a cut.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from snp.graph.traced import Split
from snp.graph.tracer import Tracer
from snp.graph.units import Count, UnitGroup

__all__ = ["along", "components_of", "with_counts"]


def along(parts: Sequence[Tensor], dim: int = 0) -> tuple[Tensor, ...]:
    """Labels of every part along one dimension, at the first position of the others; empty where there is none."""
    return tuple(part.movedim(dim, 0).flatten(1)[:, 0] if part.numel() else part.new_empty(0) for part in parts)


def components_of(tracer: Tracer, group: UnitGroup) -> Tensor:
    """The component of each unit of a group, shape [U]."""
    first = group.producers[0]
    labels = tracer.dims.get((first.tensor, first.dim))
    if labels is None:  # a table that is read element by element
        labels = along([tracer.elements[first.tensor]], first.dim)[0]
    return tracer.labels.roots(labels[first.index[:, 0]])


def with_counts(model: nn.Module, tracer: Tracer, groups: Sequence[UnitGroup]) -> tuple[UnitGroup, ...]:
    """The groups, with the entries of modules' lists of sizes that count their units.

    A list counts where exactly one attribute of the module holds just these sizes, and all splits that the module
    does by them lose the same; else each size counts that exactly one number of the module is. Everything else is left
    for the trial cut to refuse, and so is a number that the code uses for something else, too.
    """
    owners: dict[int, int] = {}
    for number, group in enumerate(groups):
        owners |= dict.fromkeys(components_of(tracer, group).tolist(), number)
    counts: dict[int, list[Count]] = defaultdict(list)
    for (module, attribute), splits in _lists(model, tracer.splits).items():
        for position in range(len(splits[0].sizes)):
            widths, *others = (_widths(tracer.labels.roots(s.parts[position]), owners, groups) for s in splits)
            for number, width in widths.items():
                if all(other.get(number) == width for other in others):
                    counts[number].append(Count(module, attribute, position, width))
    numbers = _numbers(model, tracer)
    for module, attribute in dict.fromkeys(key[:2] for key in numbers):
        parts = [labels for *key, labels in numbers if key == [module, attribute]]
        widths, *others = (_widths(tracer.labels.roots(labels), owners, groups) for labels in parts)
        for number, width in widths.items():
            if groups[number].kind in ("conv", "ffn") and all(other.get(number) == width for other in others):
                counts[number].append(Count(module, attribute, None, width))
    return tuple(replace(group, counts=tuple(counts[number])) for number, group in enumerate(groups))


def _numbers(model: nn.Module, tracer: Tracer) -> list[tuple[str, str, Tensor]]:
    """Numbers of units that modules keep, by the name of the module's only number of that value where none is known."""
    modules = dict(model.named_modules(remove_duplicate=False))
    listed = {id(split) for splits in _lists(model, tracer.splits).values() for split in splits}
    entries = [(split.module, "", part) for split in tracer.splits if id(split) not in listed for part in split.parts]
    found = []
    for module, attribute, labels in [*tracer.sizes, *entries]:
        held = vars(modules[module]) if module in modules else {}
        names = [attribute] if attribute else [n for n, v in held.items() if type(v) is int and v == len(labels)]
        if module is not None and len(names) == 1 and held.get(names[0]) == len(labels):
            found.append((module, names[0], labels))
    return found


def _lists(model: nn.Module, splits: Iterable[Split]) -> dict[tuple[str, str], list[Split]]:
    """(module, attribute) -> the splits at the sizes that lie there."""
    modules = dict(model.named_modules(remove_duplicate=False))
    names = {module: name for name, module in reversed(modules.items())}  # the first name of each
    lists: dict[tuple[str, str], list[Split]] = defaultdict(list)
    for split in splits:
        module = None if split.module is None else modules.get(split.module)
        held = vars(module).items() if module is not None else ()
        found = [name for name, value in held if type(value) in (list, tuple) and tuple(value) == split.sizes]
        if module is not None and len(found) == 1:
            lists[(names[module], found[0])].append(split)
    return lists


def _widths(roots: Tensor, owners: Mapping[int, int], groups: Sequence[UnitGroup]) -> dict[int, int]:
    """Number of a group -> how many indices of a part each of its units owns, where all own as many, at least one."""
    owned: dict[int, Counter[int]] = defaultdict(Counter)
    for root in roots.tolist():
        if root in owners:
            owned[owners[root]][root] += 1
    return {
        number: min(units.values())
        for number, units in owned.items()
        if len(units) == groups[number].num_units and min(units.values()) == max(units.values())
    }
