"""What does a tuning that was stopped between two epochs need to go on as if it had not been?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Keeper", "TuningState", "optimizer_tensors", "with_optimizer_tensors"]


@dataclass(frozen=True, eq=False)
class TuningState:
    """Tensors and numbers by name; the tensors are those of the tuning itself, to be written before it goes on.

    Attributes:
        tensors: of any device and type.
        numbers: JSON values, infinities among them.
    """

    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, Any]

    @staticmethod
    def joined(**parts: TuningState) -> TuningState:
        """Several in one, from which :meth:`part` takes each."""
        tensors = {f"{name}.{key}": each for name, part in parts.items() for key, each in part.tensors.items()}
        return TuningState(tensors, {name: part.numbers for name, part in parts.items()})

    def part(self, name: str) -> TuningState:
        """One of those that were joined."""
        return TuningState(self.named(name), self.numbers[name])

    def named(self, first: str) -> dict[str, Tensor]:
        """The tensors whose names begin with a word and a dot, without both."""
        start = f"{first}."
        return {name.removeprefix(start): each for name, each in self.tensors.items() if name.startswith(start)}


class Keeper(Protocol):
    """Where a tuning leaves its state, and finds that of an earlier start."""

    def last(self) -> TuningState | None:
        """What was kept last, None where nothing was."""

    def offer(self, state: Callable[[], TuningState]) -> None:
        """An epoch has ended; whoever keeps its state asks for it, and has written it when this returns."""


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """``optimizer.NUMBER.NAME`` -> what an optimiser remembers of its parameter of that number."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{number}.{name}": each
        for number, remembered in state.items()
        for name, each in remembered.items()
        if each is not None
    }


def with_optimizer_tensors(optimizer: torch.optim.Optimizer, state: TuningState) -> None:
    """Give a new optimiser of the same parameters what an earlier one remembered; inverse of the above."""
    remembered: dict[int, dict[str, Tensor]] = {}
    for key, tensor in state.named("optimizer").items():
        number, name = key.split(".", 1)
        remembered.setdefault(int(number), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": remembered, "param_groups": groups})
