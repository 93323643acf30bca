"""What is a network trained for, and by which numbers is it scored?  Images to classes, or text to its next token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from snp.data.base import ImageData
from snp.data.loading import SampleData
from snp.data.text import TextData
from snp.run.training.learner import Classifier, LanguageModel, Learner
from snp.run.training.recipe import TrainingRecipe

__all__ = ["Task", "score_names", "task_of"]

_OF_TEXT = ("perplexity",)
_OF_CLASSES = ("acc1_percent", "acc5_percent")


@dataclass(frozen=True)
class Task:
    """How a kind of data is learned and scored.

    Attributes:
        learner: trains and scores a network by a recipe, with a teacher where the recipe distils.
        scores: name in `metrics.json`, behind the stage, and name of the test result.
        headline: sentence for the terminal, to be formatted with the scores.
    """

    learner: Callable[[nn.Module, TrainingRecipe, nn.Module | None], Learner]
    scores: Mapping[str, str]
    headline: str


def task_of(data: SampleData) -> Task:
    """The task that the data set."""
    if isinstance(data, TextData):
        return Task(LanguageModel, {name: f"test/{name}" for name in _OF_TEXT}, "perplexity {perplexity:.2f}")
    assert isinstance(data, ImageData), type(data)
    num_classes = data.num_classes
    return Task(
        lambda model, recipe, teacher: Classifier(model, num_classes, recipe, teacher),
        {name: f"test/{name}" for name in _OF_CLASSES},
        "{acc1_percent:.2f} % top-1",
    )


def score_names(data: SampleData) -> tuple[str, ...]:
    """By what networks are scored on such data: names of ``Task.scores``, without a look at the samples."""
    return _OF_TEXT if isinstance(data, TextData) else _OF_CLASSES
