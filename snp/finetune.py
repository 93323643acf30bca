"""How is a network trained and scored?

`Classifier` is the Lightning module that follows a `TrainingRecipe`. The same module trains a dense network, fine-tunes
a pruned one and scores either (`trainer.test`).

Logged, with `<where>` the recipe's stage (`dense` or `finetune`): `<where>/train_loss`, `<where>/train_acc1_percent`,
`<where>/val_loss`, `<where>/val_acc1_percent` per epoch, `<where>/learning_rate` per step; `test/acc1_percent` and
`test/loss` by `trainer.test`. With more than five classes each `acc1` has an `acc5` beside it.
"""

import math
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from snp.training_recipe import TrainingRecipe, learning_rate_factor

__all__ = ["Classifier", "PercentAccuracy", "TrainingRecipe", "parameter_groups"]


def parameter_groups(model: nn.Module, recipe: TrainingRecipe) -> list[dict[str, Any]]:
    """Split the trainable parameters into those that decay and those that do not.

    Args:
        model: Its parameters that require gradients are taken, each once.
        recipe: Gives `weight_decay` and `decay_norms`.

    Returns:
        One or two optimizer groups with keys "params" and "weight_decay"; empty groups are left out.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trainable if parameter.ndim > 1 or recipe.decay_norms]
    plain = [parameter for parameter in trainable if parameter.ndim <= 1 and not recipe.decay_norms]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


class PercentAccuracy(MulticlassAccuracy):
    """Share of samples whose label is among the `top_k` largest logits, in percent; processes are summed."""

    def __init__(self, num_classes: int, top_k: int) -> None:
        super().__init__(num_classes=num_classes, top_k=top_k, average="micro", validate_args=False)

    def compute(self) -> Tensor:
        """Return correct / counted * 100 over every process, a float scalar in [0, 100]."""
        return 100 * super().compute()


class MeanLoss(Metric):
    """Mean loss per sample; processes are summed.

    torchmetrics' own MeanMetric either drops NaN, which hides a run that diverged, or forgets its weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total: Tensor
        self.count: Tensor
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, mean_loss: Tensor, num_samples: int) -> None:
        """Add one batch, given its mean loss (scalar) and its size."""
        self.total += mean_loss * num_samples
        self.count += num_samples

    def compute(self) -> Tensor:
        """Return the mean over all samples, a float scalar; NaN stays NaN."""
        return self.total / self.count


class Classifier(LightningModule):
    """Trains and scores an image classifier as its recipe says.

    Args:
        model: Maps images (N, channels, height, width) to logits (N, num_classes). Not copied: it is trained in place.
        num_classes: Number of classes, at least 2.
        recipe: How to train; `trainer.test` needs it only for its name.

    Raises:
        ValueError: There are fewer than two classes, training finds nothing to train, or the loss stops being finite.
    """

    def __init__(self, model: nn.Module, num_classes: int, recipe: TrainingRecipe) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"A classifier needs at least 2 classes, the data set has num_classes={num_classes}.")
        self.model = model
        self.recipe = recipe
        # Top-5 says nothing about five classes or fewer.
        top_ks = (1, 5) if num_classes > 5 else (1,)
        metrics = nn.ModuleDict({f"acc{k}_percent": PercentAccuracy(num_classes, k) for k in top_ks})
        metrics["loss"] = MeanLoss()
        self.train_metrics, self.val_metrics, self.test_metrics = metrics, deepcopy(metrics), deepcopy(metrics)

    def on_fit_start(self) -> None:
        """Train in training mode: Lightning leaves a network that was scored before in evaluation mode."""
        self.train()

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, num_classes) of images (N, channels, height, width)."""
        logits: Tensor = self.model(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Return the smoothed cross-entropy of one batch (images, integer labels) and log it."""
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log(f"{self.recipe.where}/learning_rate", rate, on_step=True, on_epoch=False)
        prefix = f"{self.recipe.where}/train_"
        return self._score(self.train_metrics, prefix, batch, self.recipe.label_smoothing)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Score one batch between epochs."""
        self._score(self.val_metrics, f"{self.recipe.where}/val_", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Score one batch of the test part."""
        self._score(self.test_metrics, "test/", batch)

    def _score(
        self, metrics: nn.ModuleDict, prefix: str, batch: tuple[Tensor, Tensor], label_smoothing: float = 0.0
    ) -> Tensor:
        """Update and log the metrics; they gather over processes at the end of the epoch, never per batch."""
        images, labels = batch
        # Half precision would round the loss of confident logits to nothing.
        logits = self(images).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        for name, metric in metrics.items():
            assert isinstance(metric, Metric)
            if name == "loss":
                metric.update(loss.detach(), len(labels))
            else:
                metric.update(logits.detach(), labels)
            self.log(prefix + name, metric, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def on_train_epoch_end(self) -> None:
        """Stop a run whose loss is no longer finite: nothing good can come of it."""
        mean_loss = self.train_metrics["loss"]
        assert isinstance(mean_loss, MeanLoss)
        if not torch.isfinite(mean_loss.compute()):
            where, rate = self.recipe.where, self.recipe.learning_rate
            raise ValueError(
                f"The {where} training loss is not finite in epoch {self.current_epoch}: "
                f"try a {where}.learning_rate below {rate} or a longer {where}.warmup_epochs."
            )

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
