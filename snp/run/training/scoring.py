"""What does a network score on the test part and on the validation samples, and how many of them were really seen?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from snp.data.loading import SampleData
from snp.data.text import TextData
from snp.run.loader import OneLoader
from snp.run.training.recipe import TrainingRecipe
from snp.run.training.task import Task

__all__ = ["SampleCount", "scores_of"]


class SampleCount(Callback):
    """Counts the samples of a test over all processes: a limit of the trainer leaves some of a data set out.

    Attributes:
        samples: of the last test; of text windows.
    """

    samples = 0

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """None was seen."""
        self.samples = 0

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: int, **__: int
    ) -> None:
        """A batch of inputs and labels was."""
        self.samples += len(batch[1])

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Together with those of other processes."""
        counted = torch.tensor(self.samples, device=trainer.strategy.root_device)
        self.samples = int(trainer.strategy.reduce(counted, reduce_op="sum"))


def scores_of(
    model: nn.Module, data: SampleData, task: Task, trainer: Callable[..., Trainer]
) -> tuple[dict[str, Any], dict[str, int]]:
    """Score a network on the test part, the validation samples and the second text, where they are there.

    Args:
        model: what is scored.
        data: configured for it.
        task: says by what.
        trainer: makes one from further keywords; its limits of test and validation batches hold.

    Returns:
        Name -> score, of validation with ``val_`` in front and of the second text with ``second_``; and the numbers of
        samples that were scored, ``test/samples`` and ``val/samples``.
    """
    # Validation is a test on other samples; batches of it are left out where the trainer leaves them out in training.
    limit = trainer().limit_val_batches
    parts: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {"": (data.test_dataloader, {})}
    if limit != 0 and len(data.val_dataloader()):
        parts["val_"] = data.val_dataloader, {"limit_test_batches": limit}
    if isinstance(data, TextData) and data.has_second:
        parts["second_"] = data.second_dataloader, {}
    scores: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for prefix, (loader, keywords) in parts.items():
        learner, count = task.learner(model, TrainingRecipe(epochs=0, learning_rate=1.0), None), SampleCount()
        found = trainer(callbacks=[count], **keywords).test(learner, OneLoader(loader), verbose=False)[0]
        scores |= {f"{prefix}{name}": found.get(result) for name, result in task.scores.items()}
        if prefix != "second_":
            counts[f"{prefix.rstrip('_') or 'test'}/samples"] = count.samples
    return scores, counts
