"""What are the numbers of one training run, and how does its learning rate move?"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

_CHOICES = {
    "where": ("dense", "finetune"),
    "optimizer": ("sgd", "adamw"),
    "schedule": ("cosine", "multistep", "constant"),
    "keep": ("last", "best"),
}
_SWITCHES = ("nesterov", "decay_norms")
_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "epochs": ("a whole number, 0 or more", lambda value: value >= 0 and value == int(value)),
    "learning_rate": ("a number above 0", lambda value: value > 0),
    "momentum": ("a number in [0, 1)", lambda value: 0 <= value < 1),
    "weight_decay": ("a number, 0 or more", lambda value: value >= 0),
    "label_smoothing": ("a number in [0, 1)", lambda value: 0 <= value < 1),
    "warmup_epochs": ("a number, 0 or more", lambda value: value >= 0),
    "gamma": ("a number in (0, 1]", lambda value: 0 < value <= 1),
    "distil": ("a number in [0, 1]", lambda value: 0 <= value <= 1),
    "temperature": ("a number above 0", lambda value: value > 0),
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class TrainingRecipe:
    """The numbers of one training run; every field is checked on construction.

    Attributes:
        epochs: Passes over the training part, 0 or more (0: nothing to train).
        learning_rate: Peak learning rate, above 0.
        optimizer: "sgd" or "adamw".
        momentum: SGD momentum in [0, 1); AdamW ignores it.
        nesterov: Whether SGD looks ahead; it does nothing without momentum.
        weight_decay: Decay of parameters with two or more dimensions, 0 or more.
        decay_norms: Whether parameters with fewer dimensions (norms and biases) decay, too.
        label_smoothing: Share of each label spread over all classes, in [0, 1); training loss only.
        schedule: "cosine" (to zero), "multistep" (times `gamma` at each milestone) or "constant".
        warmup_epochs: Epochs (fractions allowed) of linear warm-up before the schedule, at most `epochs`.
        milestones: Increasing epochs (fractions allowed) inside the run at which "multistep" drops the rate.
        gamma: Factor of each drop, in (0, 1].
        distil: Share of the loss that asks for the dense network's outputs, not for the labels, in [0, 1]; dense: 0.
        temperature: Of both networks' outputs in that share, above 0; above 1 unlikely classes count for more.
        keep: Weights after the "last" epoch, or of the "best" one by the loss of the validation samples.
        where: The stage this recipe belongs to, "dense" or "finetune": prefix of messages and of logged names.

    Raises:
        ValueError: A field is out of range; the message names it as `<where>.<field>`.
    """

    epochs: int
    learning_rate: float
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_norms: bool = False
    label_smoothing: float = 0.0
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    distil: float = 0.0
    temperature: float = 4.0
    keep: str = "last"
    where: str = "finetune"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            self._require(name, getattr(self, name) in choices, f"one of {', '.join(choices)}")
        for name in _SWITCHES:
            self._require(name, isinstance(getattr(self, name), bool), "true or false")
        for name, (rule, holds) in _RANGES.items():
            self._require(name, _is_number(getattr(self, name)) and holds(getattr(self, name)), rule)
        self._require("distil", not self.distil or self.where == "finetune", "0: the dense network has no teacher")
        self._require(
            "warmup_epochs", self.warmup_epochs <= self.epochs or not self.epochs, f"at most the {self.epochs} epochs"
        )
        self._check_milestones()

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"{self.where}.{name} must be {rule}, found {getattr(self, name)!r}.")

    def _check_milestones(self) -> None:
        """Settings arrive as any sequence; keep a tuple, so that the recipe stays hashable and cannot change."""
        is_sequence = isinstance(self.milestones, Iterable) and not isinstance(self.milestones, str)
        self._require("milestones", is_sequence, "a list of epochs")
        milestones = tuple(self.milestones)
        object.__setattr__(self, "milestones", milestones)
        self._require("milestones", all(map(_is_number, milestones)), "a list of epochs")
        if self.schedule == "multistep" and self.epochs:
            rule = f"increasing epochs between 0 and {self.epochs}, at least one, for the multistep schedule"
            ordered = all(
                early < late for early, late in zip((0, *milestones), (*milestones, self.epochs), strict=True)
            )
            self._require("milestones", ordered and len(milestones) > 0, rule)
        elif self.schedule != "multistep":
            self._require("milestones", not milestones, f"empty for the {self.schedule} schedule")


def learning_rate_factor(recipe: TrainingRecipe, step: int, num_steps: int) -> float:
    """Return the share of the peak learning rate used by one optimizer step.

    Args:
        recipe: The schedule and its numbers.
        step: Index of the optimizer step, counted from 0.
        num_steps: Optimizer steps of the whole run, at least 1.

    Returns:
        A factor in [0, 1]. Warm-up over w steps gives (step + 1) / w; cosine then follows
        (1 + cos(pi * t)) / 2 with t the share of the steps after warm-up already done.
    """
    assert num_steps >= 1, num_steps
    steps_per_epoch = num_steps / max(recipe.epochs, 1)
    num_warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if step < num_warmup:
        return (step + 1) / num_warmup
    if recipe.schedule == "cosine":
        done = min((step - num_warmup) / max(num_steps - num_warmup, 1), 1.0)
        return (1 + math.cos(math.pi * done)) / 2
    if recipe.schedule == "multistep":
        return recipe.gamma ** sum(step >= round(milestone * steps_per_epoch) for milestone in recipe.milestones)
    return 1.0
