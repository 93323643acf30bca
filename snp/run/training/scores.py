"""What is counted over batches and processes to score a network?"""

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

__all__ = ["MeanLoss", "PercentAccuracy", "Perplexity", "for_all_classes", "gathered"]


class PercentAccuracy(MulticlassAccuracy):
    """Share of samples whose label is among the `top_k` largest logits, in percent; processes are summed."""

    def __init__(self, num_classes: int, top_k: int) -> None:
        super().__init__(num_classes=num_classes, top_k=top_k, average="micro", validate_args=False)

    def compute(self) -> Tensor:
        """Return correct / counted * 100 over every process, a float scalar in [0, 100]."""
        return 100 * super().compute()


class MeanLoss(Metric):
    """Mean loss per label; processes are summed.

    torchmetrics' own MeanMetric either drops NaN, which hides a run that diverged, or forgets its weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total: Tensor
        self.count: Tensor
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, mean_loss: Tensor, num_labels: int) -> None:
        """Add one batch, given its mean loss (scalar) and its number of labels."""
        self.total += mean_loss * num_labels
        self.count += num_labels

    def compute(self) -> Tensor:
        """Return the mean over all labels, a float scalar; NaN stays NaN."""
        return self.total / self.count


class Perplexity(MeanLoss):
    """Exponential of the mean loss per label; processes are summed.

    torchmetrics' own takes the logarithm of a softmax, which is infinite where a badly pruned network is sure and
    wrong, and computes for a second time what the loss already is.
    """

    def compute(self) -> Tensor:
        """Return exp(mean cross-entropy), a float scalar of at least 1; NaN stays NaN."""
        return super().compute().exp()


def for_all_classes(logits: Tensor, num_classes: int) -> Tensor:
    """The logits (N, ..., classes) of a network that has one for every class of the data, or more.

    Raises:
        ValueError: it has fewer; a label without one would be an error of torch, or of the device.
    """
    if logits.shape[-1] < num_classes:
        raise ValueError(
            f"model: the network gives out {logits.shape[-1]} numbers for a sample, and the data have "
            f"num_classes={num_classes}; build it with an output for every class"
        )
    return logits


def gathered(metrics: nn.ModuleDict) -> dict[str, Tensor]:
    """Compute metrics over all processes, one after the other, and begin anew.

    A metric that is logged gathers whenever somebody asks for its value, and the progress bar asks on the first process
    only. So every process calls this, and what is logged are its numbers.

    Returns:
        Name -> scalar, the same on every process.
    """
    values = {}
    for name, metric in metrics.items():
        assert isinstance(metric, Metric)
        values[name] = metric.compute()
        metric.reset()
    return values
