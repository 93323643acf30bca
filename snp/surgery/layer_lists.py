"""How does a list of layers become shorter whose length, and whose layers' numbers, stand elsewhere, too?

Language models of Hugging Face note in their configuration how many layers there are, and of which kind each is, and
in every layer its number, by which it finds its own part of a cache.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import nn

from snp.graph.residual import ResidualBlock

__all__ = ["is_numbered", "lengthened", "lists_of", "names_without", "owner_of", "shorten"]

_LENGTH, _NUMBER = "num_hidden_layers", "layer_idx"


def owner_of(model: nn.Module, name: str) -> Any:
    """The configuration that notes the length of a list of layers; None where none does.

    Args:
        model: that has the list.
        name: of an ``nn.ModuleList``.
    """
    layers = model.get_submodule(name)
    if not isinstance(layers, nn.ModuleList):
        return None
    while True:
        name = name.rpartition(".")[0]
        config = getattr(model.get_submodule(name), "config", None)
        if config is not None and getattr(config, _LENGTH, None) == len(layers):
            return config
        if not name:
            return None


def is_numbered(module: nn.Module) -> bool:
    """Does a layer know its number?"""
    return any(isinstance(getattr(part, _NUMBER, None), int) for part in module.modules())


def lists_of(model: nn.Module, blocks: Collection[ResidualBlock]) -> dict[str, list[int]]:
    """Lists whose length is noted elsewhere -> numbers of the layers that go."""
    found: dict[str, list[int]] = {}
    for block in blocks:
        parent, _, key = block.name.rpartition(".")
        if owner_of(model, parent) is not None:
            found.setdefault(parent, []).append(int(key))
    return {parent: sorted(gone) for parent, gone in found.items()}


def shorten(model: nn.Module, name: str, gone: Sequence[int]) -> None:
    """Take layers out of a list, and note it wherever it is noted; the model is changed.

    Args:
        model: its configuration is its own.
        name: of the list.
        gone: numbers of the layers.
    """
    layers, config = model.get_submodule(name), owner_of(model, name)
    assert isinstance(layers, nn.ModuleList), "lists_of names lists"
    left = [number for number in range(len(layers)) if number not in gone]
    for key, value in _lists_in(config, len(layers)).items():
        setattr(config, key, type(value)(value[number] for number in left))
    setattr(config, _LENGTH, len(left))
    kept = [layers[number] for number in left]
    for place, (number, layer) in enumerate(zip(left, kept, strict=True)):
        for part in layer.modules():
            if getattr(part, _NUMBER, None) == number and isinstance(getattr(part, _NUMBER), int):
                setattr(part, _NUMBER, place)
    for number in reversed(gone):
        del layers[number]


def lengthened(small: nn.Module, removed: Sequence[ResidualBlock]) -> Any:
    """A copy of a model's configuration that notes the layers again that it had.

    Of what kind these were is not known any more; they have no weights that anybody reads.

    Args:
        small: without some blocks.
        removed: these.

    Returns:
        None where its own configuration notes no list that was made shorter.
    """
    config = getattr(small, "config", None)
    gone: dict[str, list[int]] = {}
    for block in removed:
        parent, _, key = block.name.rpartition(".")
        if config is not None and owner_of(small, parent) is config:
            gone.setdefault(parent, []).append(int(key))
    if len(gone) != 1:
        return None
    (numbers,) = gone.values()
    found, length = copy.deepcopy(config), getattr(config, _LENGTH)
    for key, value in _lists_in(config, length).items():
        longer = list(value)
        for number in sorted(numbers):
            longer.insert(number, longer[min(number, len(longer) - 1)])
        setattr(found, key, type(value)(longer))
    setattr(found, _LENGTH, length + len(numbers))
    return found


def _lists_in(config: Any, length: int) -> Mapping[str, Any]:
    """What a configuration says of every layer."""
    return {
        key: value
        for key, value in vars(config).items()
        if isinstance(value, (list, tuple)) and len(value) == length and ("layer" in key or "types" in key)
    }


def names_without(model: nn.Module, blocks: Collection[ResidualBlock]) -> dict[str, str]:
    """Names of modules that stand at another place of their list once blocks are gone -> their names then.

    Args:
        model: with all of its blocks.
        blocks: that go.
    """
    found = dict[str, str]()
    for parent, gone in lists_of(model, blocks).items():
        prefix = f"{parent}."
        for name, _ in model.named_modules():
            number, _, rest = name.removeprefix(prefix).partition(".")
            if name.startswith(prefix) and number.isdigit() and int(number) not in gone:
                place = int(number) - sum(other < int(number) for other in gone)
                found[name] = f"{prefix}{place}" + (f".{rest}" if rest else "")
    return found
