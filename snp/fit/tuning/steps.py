"""Along which steps is a network tuned, how large are they, and how many?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from snp.settings import PruneSettings

__all__ = ["Steps", "steps_of"]

_MOMENTUM = 0.9
# Where nothing is asked for. AdamW's steps are as large as the rate, whatever the gradient, so fewer go as far.
_USUAL_RATES = {"sgd": 0.02, "adamw": 5e-4}
_USUAL_EPOCHS = {"sgd": 150, "adamw": 30}


@dataclass(frozen=True)
class Steps:
    """Of an optimiser.

    Attributes:
        optimizer: "sgd", with Nesterov's momentum, or "adamw", without decay of the weights.
        rate: of learning, at its peak.
        epochs: over the samples that are tuned on.
    """

    optimizer: str
    rate: float
    epochs: int

    def slower(self, factor: float) -> Steps:
        """The same at a factor of the rate."""
        return replace(self, rate=factor * self.rate)

    def of(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """An optimiser that has not moved anything yet."""
        if self.optimizer == "adamw":
            return torch.optim.AdamW(parameters, lr=self.rate, weight_decay=0.0)
        return torch.optim.SGD(parameters, lr=self.rate, momentum=_MOMENTUM, nesterov=True)


def steps_of(model: nn.Module, settings: PruneSettings) -> Steps:
    """What was asked for; by default SGD where norms have statistics of batches, which are at rest, else AdamW.

    In as many epochs transformers come nearer by AdamW (docs/tuning.md), a ResNet and an EfficientNet by SGD.

    Args:
        model: the small network.
        settings: ``tune_optimizer``, ``tune_rate`` and ``tune_epochs``.
    """
    has_statistics = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    usual = "sgd" if has_statistics else "adamw"
    optimizer = usual if settings.tune_optimizer == "auto" else settings.tune_optimizer
    epochs = _USUAL_EPOCHS[optimizer] if settings.tune_epochs is None else settings.tune_epochs
    return Steps(optimizer, settings.tune_rate or _USUAL_RATES[optimizer], epochs)
