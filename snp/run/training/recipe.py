"""What are the numbers of one training run, and how does its learning rate move?"""

from __future__ import annotations

import math
from typing import Literal

from pydantic.dataclasses import dataclass

from snp.core.options import STRICT, named, option

__all__ = ["TrainingRecipe", "learning_rate_factor"]


@named(lambda given: given.get("where", "finetune"))
@dataclass(frozen=True, config=STRICT)
class TrainingRecipe:
    """The numbers of one training run."""

    epochs: int = option(..., "passes over the training part; 0 skips it", ge=0)
    learning_rate: float = option(..., "at its peak", gt=0)
    optimizer: Literal["sgd", "adamw"] = option("sgd", "what steps are made by")
    momentum: float = option(0.9, "of SGD; AdamW has its own", ge=0, lt=1)
    nesterov: bool = option(True, "SGD looks ahead; nothing without momentum")
    weight_decay: float = option(5e-4, "of parameters with two or more dimensions", ge=0)
    decay_norms: bool = option(False, "parameters with fewer dimensions (norms and biases) decay, too")
    label_smoothing: float = option(0.0, "share of each label spread over all classes, in training", ge=0, lt=1)
    by_cut: bool = option(
        False,
        "learning_rate times the relative size of the cut, as ALLR has it: for the rate of the dense network's own "
        "training",
    )
    schedule: Literal["cosine", "linear", "multistep", "constant"] = option(
        "cosine", "of the learning rate: to zero, along a cosine or a line; times gamma at each milestone; none"
    )
    warmup_epochs: float = option(0.0, "of linear warm-up before the schedule, in fractions if need be", ge=0)
    milestones: tuple[float, ...] = option(
        (), "increasing epochs inside the run at which multistep drops the rate", strict=False, examples=[(2, 4)]
    )
    gamma: float = option(0.1, "factor of each drop", gt=0, le=1)
    distil: float = option(
        0.0, "share of the loss that asks for the dense network's outputs instead of the labels", ge=0, le=1
    )
    temperature: float = option(4.0, "of both networks' outputs in that share", gt=0)
    average: float = option(
        0.0, "decay per step of a running mean of the weights, which is validated and kept; 0: the weights", ge=0, lt=1
    )
    keep: Literal["last", "best"] = option(
        "last", "weights after the last epoch; best: of the epoch with the lowest validation loss"
    )
    where: Literal["dense", "finetune"] = option("finetune", "the stage, in messages and in logged names")

    def __post_init__(self) -> None:
        self._require("distil", not self.distil or self.where == "finetune", "0: the dense network has no teacher")
        self._require("by_cut", not self.by_cut or self.where == "finetune", "false: nothing is cut in a dense network")
        self._require(
            "warmup_epochs", self.warmup_epochs <= self.epochs or not self.epochs, f"at most the {self.epochs} epochs"
        )
        if self.schedule == "multistep" and self.epochs:
            rule = f"increasing epochs between 0 and {self.epochs}, at least one, for the multistep schedule"
            ends = zip((0, *self.milestones), (*self.milestones, self.epochs), strict=True)
            self._require("milestones", len(self.milestones) > 0 and all(early < late for early, late in ends), rule)
        elif self.schedule != "multistep":
            self._require("milestones", not self.milestones, f"empty for the {self.schedule} schedule")

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"{self.where}.{name} must be {rule}, found {getattr(self, name)!r}.")


def learning_rate_factor(recipe: TrainingRecipe, step: int, num_steps: int) -> float:
    """Return the share of the peak learning rate used by one optimizer step.

    Args:
        recipe: The schedule and its numbers.
        step: Index of the optimizer step, counted from 0.
        num_steps: Optimizer steps of the whole run, at least 1.

    Returns:
        A factor in [0, 1]. Warm-up over w steps gives (step + 1) / w; cosine then follows
        (1 + cos(pi * t)) / 2 and linear 1 - t, with t the share of the steps after warm-up already done.
    """
    assert num_steps >= 1, num_steps
    steps_per_epoch = num_steps / max(recipe.epochs, 1)
    num_warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if step < num_warmup:
        return (step + 1) / num_warmup
    done = min((step - num_warmup) / max(num_steps - num_warmup, 1), 1.0)
    if recipe.schedule == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    if recipe.schedule == "linear":
        return 1 - done
    if recipe.schedule == "multistep":
        return recipe.gamma ** sum(step >= round(milestone * steps_per_epoch) for milestone in recipe.milestones)
    return 1.0
