"""In which form do calibration data and the network itself come?  Batches of all kinds, precision, modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fuzzing.draw import Draw

__all__ = ["batches_of", "in_some_state", "inputs_of"]


def in_some_state(draw: Draw, model: nn.Module) -> nn.Module:
    """The network in single or double precision, in training mode or not, all of it trained or all but its front."""
    model.train(draw.flag(0.15))
    model.requires_grad_(True)
    if draw.flag(0.1):
        next(model.children()).requires_grad_(False)
    return model.double() if draw.flag(0.1) else model


def inputs_of(draw: Draw, model: nn.Module, data: Callable[[int], Tensor]) -> Tensor:
    """Samples to calibrate on: some, one repeated, all the same value, or two."""
    # Copies are told from chance only where samples are many more than columns.
    inputs = data(128 if draw.simple else draw.one_of(10, 16, 24))
    way = "some" if draw.simple else draw.one_of(*["some"] * 17, "repeated", "constant", "two")
    if way == "repeated":
        inputs = inputs[:1].repeat(len(inputs), *[1] * (inputs.ndim - 1))
    elif way == "constant":
        inputs = torch.ones_like(inputs)
    elif way == "two":
        inputs = inputs[:2]
    return inputs.to(next(model.parameters()).dtype) if inputs.is_floating_point() else inputs


def batches_of(draw: Draw, inputs: Tensor) -> list[Any]:
    """The samples in one batch or two, even or not; plain, beside labels, or by name."""
    count = len(inputs)
    sizes = draw.one_of([count], [count // 2, count - count // 2], [count - 1, 1])
    form = draw.one_of("plain", "plain", "plain", "labels", "names")
    parts = inputs.split(sizes)
    if form == "labels":
        return [(part, torch.zeros(len(part), dtype=torch.int64)) for part in parts]
    return [{"x": part} for part in parts] if form == "names" else list(parts)
