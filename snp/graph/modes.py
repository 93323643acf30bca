"""In which modes are a network's modules, and how do they come back to them?

By ``train``, and not by the attribute ``training`` alone: modules of some networks change what they run there.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["as_before", "copy_in_modes", "modes_of", "set_modes"]


def modes_of(model: nn.Module) -> dict[str, bool]:
    """Name of every module -> is it in training mode?"""
    return {name: module.training for name, module in model.named_modules()}


def set_modes(model: nn.Module, modes: Mapping[str, bool]) -> None:
    """Put modules into modes, in place.

    Args:
        model: modules that ``modes`` does not name follow the module they are in.
        modes: from :func:`modes_of`.
    """
    for name, module in model.named_modules():  # outer ones first: ``train`` reaches what is inside
        mode = modes.get(name)
        if mode is not None and mode != module.training:
            module.train(mode)
            module.training = mode  # a module that does not follow ``train`` was put there by hand


@contextmanager
def as_before(model: nn.Module) -> Iterator[None]:
    """All modules are in the modes that they were in behind the ``with`` block."""
    modes = modes_of(model)
    try:
        yield
    finally:
        set_modes(model, modes)


def copy_in_modes(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy in the modes of the original, which copies by a ``__deepcopy__`` of their own may lose.

    Args:
        model: not changed.
        memo: of :func:`copy.deepcopy`.
    """
    found = copy.deepcopy(model, memo) if memo is not None else copy.deepcopy(model)
    set_modes(found, modes_of(model))
    return found
