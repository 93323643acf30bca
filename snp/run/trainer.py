"""How is a network trained, scored and run over samples inside a run, on whatever devices the trainer has?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from snp.core.gram import Moments
from snp.data.loading import SampleData
from snp.graph.batches import Batch
from snp.plan.progress import Progress
from snp.run.calibrate import CalibrationCallback, CalibrationSettings, ForwardPass
from snp.run.folder import RunFolder, is_first_process, log
from snp.run.limits import refuse_best, validates
from snp.run.loader import OneLoader
from snp.run.processes import copy_from_first
from snp.run.trainer_options import refuse_values, trainer_refusal
from snp.run.training.callbacks import EpochBar, EpochLines, EpochSeed, KeepSignals, MeanWeights, TimeSpent
from snp.run.training.checkpoints import Checkpoints
from snp.run.training.history import GoOnFrom
from snp.run.training.recipe import TrainingRecipe
from snp.run.training.scoring import scores_of
from snp.run.training.task import task_of
from snp.speed import network
from snp.surgery.subject import Subject

__all__ = ["JobTrainer"]


class JobTrainer:
    """A run's data, trainer, loggers and folder, used together.

    Args:
        data: configured for the network before the first use.
        trainer: makes a Lightning trainer from further keywords.
        loggers: get what training logs.
        folder: gets the scores.
    """

    def __init__(
        self, data: SampleData, trainer: Callable[..., Trainer], loggers: list[Logger], folder: RunFolder
    ) -> None:
        self._data, self._task = data, task_of(data)
        self._trainer = trainer
        self._loggers = loggers
        self._folder = folder
        self._launchers: list[Any] = []
        # A log file has no use for a bar; whoever asks for one by name gets it.
        asked = getattr(trainer, "keywords", {}).get("enable_progress_bar")
        self._bars = {"enable_progress_bar": sys.stdout.isatty()} if asked == "auto" else {}
        self._shows_bars = bool(self._bars.get("enable_progress_bar", asked))

    def progress(self) -> Progress:
        """Bars for what runs without a Lightning trainer, where that would draw them, too."""
        return Progress(shows=self._shows_bars)

    @cached_property
    def device(self) -> torch.device:
        """Where this process's trainer works."""
        return self.trainer().strategy.root_device

    def trainer(self, **keywords: Any) -> Trainer:
        """A trainer that leaves no files of its own and logs nothing unless told to.

        Raises:
            ValueError: Lightning refuses the settings.
        """
        defaults = {"logger": False, "enable_checkpointing": False, "default_root_dir": str(self._folder.path)}
        callbacks = [*keywords.pop("callbacks", ()), KeepSignals()]
        asked = getattr(self._trainer, "keywords", {})
        refuse_values(asked)
        try:
            made = self._trainer(**{**defaults, **keywords, **self._bars, "callbacks": callbacks})
        except (TypeError, ValueError, MisconfigurationException) as error:
            raise trainer_refusal(asked, error) from error
        self._launchers.append(made.strategy.launcher)
        return made

    def end_processes(self) -> None:
        """End the processes that Lightning started for this one."""
        for launcher in self._launchers:
            for process in getattr(launcher, "procs", ()):
                process.terminate()

    def fit(
        self,
        model: nn.Module,
        recipe: TrainingRecipe,
        teacher: nn.Module | None = None,
        seed: int = 0,
        checkpoints: Checkpoints | None = None,
    ) -> float:
        """Train a network in place, by a teacher where the recipe distils; it ends on the CPU, the same everywhere.

        Args:
            model: the network.
            recipe: how it is trained.
            teacher: the dense network.
            seed: of every epoch.
            checkpoints: where the state after every epoch is kept, and found again; None keeps nothing.

        Returns:
            Seconds, of earlier starts that it goes on from, too.
        """
        last = checkpoints.last if checkpoints else None
        num_apart = len(self._data.val_dataloader())
        if checkpoints:
            refuse_best(self.trainer(), recipe, num_apart)
        going_on = f", going on from {last}" if last else ""
        log(f"{recipe.where} training: {recipe.epochs} epoch{'s' * (recipe.epochs != 1)}{going_on}")
        metric = f"{recipe.where}/val_loss" if validates(self.trainer(), recipe, num_apart) else None
        kept = checkpoints.callbacks(metric) if checkpoints else []
        spent = TimeSpent()
        callbacks = [spent, EpochSeed(seed), GoOnFrom(recipe.where), *self._of_epochs(recipe), *kept]
        keywords = {"max_epochs": recipe.epochs, "logger": self._loggers, "callbacks": callbacks}
        trainer = self.trainer(**keywords, enable_checkpointing=checkpoints is not None)
        learner = self._task.learner(model, recipe, teacher)
        trainer.fit(learner, datamodule=self._data, ckpt_path=last, weights_only=True if last else None)
        if recipe.keep == "best" and checkpoints:
            checkpoints.load_best(model)
        model.to("cpu")
        copy_from_first(model)
        return spent.seconds

    def _of_epochs(self, recipe: TrainingRecipe) -> list[Callback]:
        """How an epoch is shown, and the running mean of the weights where the recipe asks for one."""
        shown = EpochBar(recipe.where) if self._shows_bars else EpochLines(recipe.where, log)
        return [shown, MeanWeights(decay=recipe.average)] if recipe.average else [shown]

    def forward(self, model: nn.Module, samples: int, seed: int, callback: Callback, *, mirrored: bool = False) -> None:
        """Show the calibration samples to a network, each once over all processes, and perhaps mirrored."""
        trainer = self.trainer(callbacks=[callback])
        calibration = OneLoader(lambda: self._data.calibration_dataloader(samples, seed))
        trainer.predict(ForwardPass(model, mirrored=mirrored), datamodule=calibration, return_predictions=False)
        model.to("cpu")

    def measured_moments(
        self, subject: Subject, settings: CalibrationSettings, seed: int, *, mirrored: bool
    ) -> tuple[dict[str, Moments], dict[str, Any]]:
        """Moments of the calibration samples from one pass, and facts about it."""
        # The first pass measures nothing: it is the yardstick for the cost of the second.
        plain, full = (CalibrationCallback(readers, settings) for readers in ({}, subject.readers))
        for callback in (plain, full):
            self.forward(subject.model, settings.samples, seed, callback, mirrored=mirrored)
        return full.moments, {"forward_s": plain.seconds, "calibrate_s": full.seconds, "samples": full.samples}

    def calibration_inputs(self, samples: int, seed: int, *, whole: bool = True) -> list[Batch]:
        """Calibration inputs on this process's device, all or its share, in the batches that all calibrate on."""
        loader = self._data.calibration_dataloader(samples, seed, whole=whole)
        return [Batch.of(batch).to(self.device) for batch in loader]

    def score(self, stage: str, model: nn.Module) -> None:
        """Scores on test part and validation samples (``val_``), cost and size, as ``<stage>/...``; sample counts."""
        scores, counts = scores_of(model, self._data, self._task, self.trainer)
        trainer = self.trainer()
        if is_first_process():
            self._measure(stage, model, trainer.strategy.root_device, scores)
            self._folder.record(counts)
        # On shared cores other processes would slow down what is being timed.
        trainer.strategy.barrier()
        model.to("cpu")

    def _measure(self, stage: str, model: nn.Module, device: torch.device, scores: Mapping[str, Any]) -> None:
        model.to(device).eval()
        inputs = self.example(1).beside(model)
        numbers: dict[str, Any] = {
            **scores,
            "macs": network.macs(model, inputs),
            "params": network.num_params(model),
            "size_bytes": network.size_bytes(model),
        }
        self._folder.record({f"{stage}/{name}": value for name, value in numbers.items()})
        log(f"{stage}: {self._task.headline.format(**scores)}, {numbers['macs'] / 1e6:.1f} M MACs")

    def example(self, count: int) -> Batch:
        """The first test inputs as the network gets them; fewer where there are fewer."""
        self._data.setup("test")
        assert self._data.test_set is not None
        size = min(count, len(self._data.test_set))
        return Batch((torch.stack([self._data.test_set[index][0] for index in range(size)]),))
