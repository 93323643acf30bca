"""Which form have a network's inputs, so that some of that form can be made again?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from snp.graph.batches import Batch

__all__ = ["example_of", "forms_of"]


def forms_of(batch: Batch) -> dict[str, dict[str, Any]]:
    """Place among the arguments ("0", or a keyword) -> shape of one sample and dtype; empty for nested ones."""
    named = {**{str(place): value for place, value in enumerate(batch.args)}, **batch.kwargs}
    if batch.shared or not all(isinstance(value, Tensor) and value.ndim > 0 for value in named.values()):
        return {}
    return {
        name: {"shape": list(value.shape[1:]), "dtype": str(value.dtype).removeprefix("torch.")}
        for name, value in named.items()
    }


def example_of(forms: Mapping[str, Mapping[str, Any]], size: int) -> Batch:
    """So many samples of that form, always the same: normal numbers, or ones where whole numbers are read."""
    generator = torch.Generator().manual_seed(0)

    def example(form: Mapping[str, Any]) -> Tensor:
        shape, dtype = (size, *form["shape"]), getattr(torch, form["dtype"])
        if not dtype.is_floating_point:
            return torch.ones(shape, dtype=dtype)
        return torch.randn(shape, generator=generator).to(dtype)

    args = tuple(example(form) for name, form in forms.items() if name.isdigit())
    return Batch(args, {name: example(form) for name, form in forms.items() if not name.isdigit()})
