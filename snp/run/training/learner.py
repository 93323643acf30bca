"""How is a network trained and scored?

`Learner` is the Lightning module that follows a `TrainingRecipe`; `Classifier` and `LanguageModel` say by which
metrics. The same module trains a dense network, fine-tunes a pruned one and scores either (`trainer.test`).

Logged, with `<where>` the recipe's stage (`dense` or `finetune`): `<where>/train_loss`, `<where>/val_loss` and the
same of every metric (`acc1_percent`, with more than five classes `acc5_percent`; `perplexity`) per epoch,
`<where>/learning_rate` per step; `test/loss` and the same of every metric by `trainer.test`.
"""

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import Metric

from snp.data.windows import IGNORED
from snp.measure.distillation import distillation_loss
from snp.measure.outputs import first_tensor
from snp.run.training.recipe import TrainingRecipe, learning_rate_factor
from snp.run.training.scores import MeanLoss, PercentAccuracy, Perplexity, for_all_classes, gathered

__all__ = ["Classifier", "LanguageModel", "Learner", "PercentAccuracy", "TrainingRecipe", "parameter_groups"]


def parameter_groups(model: nn.Module, recipe: TrainingRecipe) -> list[dict[str, Any]]:
    """Split the trainable parameters into those that decay and those that do not, as the recipe says; each once.

    Returns:
        One or two optimizer groups with keys "params" and "weight_decay"; empty groups are left out.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trainable if parameter.ndim > 1 or recipe.decay_norms]
    plain = [parameter for parameter in trainable if parameter.ndim <= 1 and not recipe.decay_norms]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


class Learner(LightningModule):
    """Trains and scores a network by the cross-entropy of its logits, as its recipe says.

    Args:
        model: Its first output tensor holds logits (N, ..., num_classes). Not copied: it is trained in place.
        recipe: How to train; `trainer.test` needs it only for its name.
        metrics: Name to metric of (logits, labels).
        teacher: The dense network, for recipes that distil; it is looked at only.

    Raises:
        ValueError: Training finds nothing to train, or the loss stops being finite.
    """

    def __init__(
        self, model: nn.Module, recipe: TrainingRecipe, metrics: Mapping[str, Metric], teacher: nn.Module | None = None
    ) -> None:
        super().__init__()
        assert not recipe.distil or teacher is not None, "distillation needs the dense network"
        self.model = model
        self.recipe = recipe
        # In a tuple it is no part of this module: not saved, not synchronised over processes, never in training mode.
        self._teacher = (teacher,) if teacher is not None and recipe.distil else ()
        scores = nn.ModuleDict({**metrics, "loss": MeanLoss()})
        self.train_metrics, self.val_metrics, self.test_metrics = scores, deepcopy(scores), deepcopy(scores)

    def on_fit_start(self) -> None:
        """Train in training mode: Lightning leaves a network that was scored before in evaluation mode."""
        self.train()
        for teacher in self._teacher:
            teacher.to(self.device).eval()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits (N, ..., num_classes) of a batch of inputs."""
        return first_tensor(self.model(inputs))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Return the loss of one batch (inputs, integer labels), and log its cross-entropy."""
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log(f"{self.recipe.where}/learning_rate", rate, on_step=True, on_epoch=False)
        logits, loss = self._score(self.train_metrics, batch, self.recipe.label_smoothing)
        for teacher in self._teacher:
            with torch.no_grad():
                wanted = first_tensor(teacher(batch[0])).float()
            share, is_counted = self.recipe.distil, batch[1] != IGNORED
            distilled = distillation_loss(logits[is_counted], wanted[is_counted], self.recipe.temperature)
            loss = (1 - share) * loss + share * distilled
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Score one batch between epochs."""
        self._score(self.val_metrics, batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Score one batch of the test part."""
        self._score(self.test_metrics, batch)

    def _score(
        self, metrics: nn.ModuleDict, batch: tuple[Tensor, Tensor], label_smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Update the metrics; they gather over processes at the end of the epoch, never per batch."""
        inputs, labels = batch
        # Half precision would round the loss of confident logits to nothing.
        logits = self(inputs).float()
        # Classes come second there, whatever lies behind: (N, num_classes, ...).
        loss = F.cross_entropy(logits.movedim(-1, 1), labels, ignore_index=IGNORED, label_smoothing=label_smoothing)
        for metric in metrics.values():
            assert isinstance(metric, Metric)
            if isinstance(metric, MeanLoss):
                metric.update(loss.detach(), int((labels != IGNORED).sum()))
            else:
                metric.update(logits.detach(), labels)
        return logits, loss

    def _log(self, prefix: str, values: dict[str, Tensor]) -> None:
        self.log_dict({prefix + name: value for name, value in values.items()})

    def on_train_epoch_end(self) -> None:
        """Log the scores of the epoch, and stop a run whose loss is no longer finite: nothing good can come of it."""
        scores = gathered(self.train_metrics)
        self._log(f"{self.recipe.where}/train_", scores)
        if not torch.isfinite(scores["loss"]):
            where, rate = self.recipe.where, self.recipe.learning_rate
            raise ValueError(
                f"The {where} training loss is not finite in epoch {self.current_epoch + 1} of "
                f"{self.recipe.epochs}: "
                f"try a {where}.learning_rate below {rate} or a longer {where}.warmup_epochs."
            )

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the validation samples."""
        self._log(f"{self.recipe.where}/val_", gathered(self.val_metrics))

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test part."""
        self._log("test/", gathered(self.test_metrics))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer and a schedule that advances with every optimizer step."""
        recipe, groups = self.recipe, parameter_groups(self.model, self.recipe)
        num_steps = self.trainer.estimated_stepping_batches
        if not groups or not 1 <= num_steps < math.inf:
            found = "no trainable parameters" if not groups else f"{num_steps} optimizer steps"
            raise ValueError(
                f"The {recipe.where} stage has nothing to train: it found {found}; "
                f"check {recipe.where}.epochs and the size of the data set."
            )
        optimizer: torch.optim.Optimizer
        if recipe.optimizer == "sgd":
            nesterov = recipe.nesterov and recipe.momentum > 0
            optimizer = torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=nesterov)
        else:
            optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(recipe, step, int(num_steps))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Classifier(Learner):
    """Trains and scores an image classifier.

    Args:
        model: Maps images (N, channels, height, width) to logits (N, num_classes).
        num_classes: Number of classes, at least 2.
        recipe, teacher: See `Learner`.

    Raises:
        ValueError: There are fewer than two classes, or the network has an output for some of them only.
    """

    def __init__(
        self, model: nn.Module, num_classes: int, recipe: TrainingRecipe, teacher: nn.Module | None = None
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"A classifier needs at least 2 classes, the data set has num_classes={num_classes}.")
        # Top-5 says nothing about five classes or fewer.
        top_ks = (1, 5) if num_classes > 5 else (1,)
        super().__init__(model, recipe, {f"acc{k}_percent": PercentAccuracy(num_classes, k) for k in top_ks}, teacher)
        self._num_classes = num_classes

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits (N, num_classes) of a batch of images."""
        return for_all_classes(super().forward(inputs), self._num_classes)


class LanguageModel(Learner):
    """Trains and scores a causal language model on (tokens, next tokens), both (N, T); `IGNORED` labels do not count.

    Args:
        model: Maps tokens (N, T) to logits (N, T, vocabulary).
        recipe, teacher: See `Learner`.
    """

    def __init__(self, model: nn.Module, recipe: TrainingRecipe, teacher: nn.Module | None = None) -> None:
        super().__init__(model, recipe, {"perplexity": Perplexity()}, teacher)
