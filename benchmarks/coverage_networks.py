"""Which networks does the coverage run look at?  The smallest variant of every family, with values everywhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import timm
import torch
import torchvision
from torch import nn

from snp.surgery.audit import randomise

__all__ = ["Network", "build", "families", "smallest_input", "smallest_variant"]

# Sizes tried in turn; what takes no small image takes its own.
SIZES = (32, 64, 96, 112, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512)
# Names are sorted by these words before variants are built and counted, of which there may be more than a hundred.
SMALL = (
    "test femto atto pico nano zepto xxs xs xxtiny xtiny tiny mini small s0 b0 t0 m0 lite 18 10 11 12 14 16 032 002 004"
).split()
MOST_VARIANTS = 16


@dataclass(frozen=True)
class Network:
    """A variant: where it comes from and what it is called there."""

    library: str
    family: str
    name: str


def families() -> dict[tuple[str, str], list[str]]:
    """(library, family file) -> names of its variants."""
    found = {("timm", module): timm.list_models(module=module) for module in timm.list_modules()}
    for name in torchvision.models.list_models(module=torchvision.models):
        builder = torchvision.models.get_model_builder(name)
        found.setdefault(("torchvision", builder.__module__.rpartition(".")[2]), []).append(name)
    return {key: names for key, names in found.items() if names}


def _sort_key(name: str) -> tuple[int, int, str]:
    words = re.split(r"[_.\-]", name)
    ranks = [SMALL.index(word) for word in words if word in SMALL]
    return (min(ranks, default=len(SMALL)), len(name), name)


def smallest_variant(library: str, family: str, names: Iterable[str]) -> Network:
    """The variant with the fewest parameters among the most promising names."""
    counted: list[tuple[int, str]] = []
    for name in sorted(names, key=_sort_key)[:MOST_VARIANTS]:
        try:
            with torch.device("meta"):
                model = _constructor(library, name)()
        except (RuntimeError, NotImplementedError, ValueError, TypeError):
            continue  # not every constructor runs without memory; another variant stands for the family
        # Test models have three blocks: smaller than anything that is used, so they stand for no family.
        counted.append((sum(p.numel() for p in model.parameters()) + (name.startswith("test_")) * 10**12, name))
    return Network(library, family, min(counted)[1] if counted else min(names, key=_sort_key))


def _constructor(library: str, name: str) -> Callable[..., nn.Module]:
    if library == "timm":
        return lambda **options: timm.create_model(name, **options)
    if name in ("googlenet", "inception_v3"):
        return lambda **options: torchvision.models.get_model(name, init_weights=True, aux_logits=False, **options)
    return lambda **options: torchvision.models.get_model(name, **options)


def build(network: Network, size: int, device: str = "cpu") -> nn.Module | None:
    """The network for images of this size, or None where it does not take them."""
    construct = _constructor(network.library, network.name)
    torch.manual_seed(0)
    for options in ({}, {"img_size": size}, {"image_size": size}):
        try:
            with torch.device(device), torch.no_grad():
                model = construct(**options).eval()
                model(torch.randn(2, 3, size, size))
        except Exception:  # whatever a model's code says to a size that it does not take
            continue
        return model
    return None


def smallest_input(network: Network, at_least: int = 0) -> tuple[nn.Module, int] | None:
    """The network with values everywhere, and the smallest square image that it takes, of at least so many pixels."""
    for looks_first in (True, False):  # not every network runs without memory; those that do are tried without
        for size in (size for size in SIZES if size >= at_least):
            if looks_first and build(network, size, "meta") is None:
                continue
            model = build(network, size)
            if model is not None:
                return randomise(model), size
    return None
