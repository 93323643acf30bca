"""What happens at the hooks of a trainer beside learning?  Seeds, signals, mean weights, and lines instead of a bar."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging, RichProgressBar

from snp.run.stopping import stop

__all__ = ["EpochBar", "EpochLines", "EpochSeed", "KeepSignals", "MeanWeights", "TimeSpent"]


class EpochSeed(Callback):
    """Seeds every epoch by run, epoch and process alone, so that it goes the same way after an interruption."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the first batch is drawn; the run's own seed, which loaders read, stays as it is."""
        drawn = (self._seed + 1_000_003 * (trainer.current_epoch + 1) + 7919 * trainer.global_rank) % 2**32
        random.seed(drawn)
        np.random.seed(drawn)
        torch.manual_seed(drawn)


class KeepSignals(Callback):
    """Takes the signal back from Lightning, whose own handler waits for other processes, perhaps for ever."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning has registered its handler by then, around ours."""
        if stop in getattr(signal.getsignal(signal.SIGTERM), "signal_handlers", ()):
            signal.signal(signal.SIGTERM, stop)

    on_test_start = on_predict_start = on_train_start


class TimeSpent(Callback):
    """The seconds of a training over all of its starts; of those that were stopped, up to their last checkpoint."""

    def __init__(self) -> None:
        self._before, self._started = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        """So far."""
        return self._before + time.perf_counter() - self._started

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A start before this one left it."""
        self._before = state_dict["seconds"]


class MeanWeights(EMAWeightAveraging):
    """Lightning's running mean of the weights, which they end with also where no step was left to make.

    Stopped after its last epoch, a training goes on from a checkpoint at its end, where Lightning returns at once:
    without ``on_train_end``, which would give the network its mean weights.
    """

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Once more where ``on_train_end`` did it: the same weights."""
        self.on_train_end(trainer, pl_module)


# Of scores, for a terminal.
_WORDS = {
    "acc1_percent": "top-1 {:.2f} %",
    "acc5_percent": "top-5 {:.2f} %",
    "loss": "loss {:.4g}",
    "perplexity": "perplexity {:.2f}",
}


class EpochBar(RichProgressBar):
    """Lightning's bar, with epochs counted from 1 and the stage that is trained in front of them.

    Args:
        stage: "dense" or "finetune".
    """

    def __init__(self, stage: str) -> None:
        super().__init__()
        self._stage = stage

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{self._stage}: epoch {current_epoch + 1} of {self.trainer.max_epochs}"

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands behind the bar: not the name of a logger's run."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}


class EpochLines(Callback):
    """One line per epoch with the time that is left, for terminals and logs without a progress bar.

    Args:
        stage: "dense" or "finetune".
        tell: says a line.
    """

    def __init__(self, stage: str, tell: Callable[[str], None]) -> None:
        self._stage, self._tell = stage, tell
        self._started, self._first = 0.0, 0
        self._is_validated = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The clock starts; a training that goes on begins with a later epoch."""
        self._started, self._first = time.monotonic(), trainer.current_epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning goes on to know the numbers of the last validation, which are not those of this epoch."""
        self._is_validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """This epoch has numbers of its own."""
        self._is_validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The epoch was trained, and where it was its turn scored on the validation samples."""
        done, last = trainer.current_epoch + 1, trainer.max_epochs or 0
        left = (time.monotonic() - self._started) / (done - self._first) * (last - done)
        scores = {
            name.removeprefix(f"{self._stage}/val_"): float(value)
            for name, value in trainer.callback_metrics.items()
            if self._is_validated and name.startswith(f"{self._stage}/val_")
        }
        text = "".join(f", {_WORDS.get(name, name + ' {:.4g}').format(value)}" for name, value in scores.items())
        text = f", validation: {text[2:]}" if text else ""
        self._tell(f"{self._stage}: epoch {done} of {last}{text}, {left:.0f} s left")
