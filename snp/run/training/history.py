"""Where do the curves of a training stand that is stopped and goes on?  In one table, as without the interruption."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger, Logger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only

from snp.core.files import named, whole

__all__ = ["GoOnFrom", "TrainingTable", "forget_curves"]


class _GoingOn(ExperimentWriter):
    """Appends to the table that is there; Lightning's own writer removes it."""

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                self.metrics_keys = list(csv.DictReader(file).fieldnames or ())

    def save(self) -> None:
        """Append what was logged; a disk without room is named."""
        with named(Path(self.metrics_file_path)):
            super().save()


class TrainingTable(CSVLogger):
    """``training/version_0/metrics.csv`` of a run folder, written as the numbers come: a killed run loses none.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="training", version=0, flush_logs_every_n_steps=1)
        self._table = Path(self.log_dir, _GoingOn.NAME_METRICS_FILE)

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """What writes the table; on other processes than the first, nothing does."""
        if self._experiment is None:
            self._experiment = _GoingOn(self.log_dir)
        return self._experiment  # type: ignore[return-value]

    @rank_zero_only
    def forget(self, stage: str, step: int = 0) -> None:
        """Remove the rows of a stage from a step on: a training that goes on there writes them again."""
        if not self._table.is_file():
            return
        with self._table.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            header = list(reader.fieldnames or ())
            rows = [row for row in reader if not (_is_of(row, stage) and int(row["step"]) >= step)]
        with whole(self._table) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, header)
            writer.writeheader()
            writer.writerows(rows)


class GoOnFrom(Callback):
    """Forgets what an earlier start logged beyond the checkpoint from which a stage goes on; all of it without one.

    Args:
        stage: "dense" or "finetune".
    """

    def __init__(self, stage: str) -> None:
        self._stage = stage

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The checkpoint has been read by then."""
        forget_curves(trainer.loggers, self._stage, trainer.global_step)


def forget_curves(loggers: Iterable[Logger], stage: str, step: int = 0) -> None:
    """Remove a stage's curves from a step on, where a logger keeps a table."""
    for logger in loggers:
        if isinstance(logger, TrainingTable):
            logger.forget(stage, step)


def _is_of(row: dict[str, str], stage: str) -> bool:
    return any(value and name.startswith(f"{stage}/") for name, value in row.items())
