"""From where does a training go on that was interrupted?  From ``last.ckpt``, written at the end of every epoch."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from snp.run.training.kept_tuning import KeptTuning

__all__ = ["Checkpoints"]


class _WholeCheckpoint(ModelCheckpoint):
    """A half-written checkpoint never takes the place of a whole one; Lightning copies from another file system."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning forgets the best score where its folder was moved meanwhile; ours moves with the run's."""
        before, now = state_dict["dirpath"], self.dirpath
        moved = {f"{before}/{path.name}": f"{now}/{path.name}" for path in Path(str(now)).glob("*.ckpt")}
        scores = {moved.get(path, path): score for path, score in state_dict["best_k_models"].items()}
        paths = {name: moved.get(path, path) for name, path in state_dict.items() if name.endswith("model_path")}
        super().load_state_dict({**state_dict, **paths, "best_k_models": scores, "dirpath": now})

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        partial = f"{filepath}.partial"
        try:
            super()._save_checkpoint(trainer, partial)
        except (OSError, RuntimeError) as error:  # what Lightning, or torch, says of a full disk
            Path(partial).unlink(missing_ok=True)
            reason, temporary = getattr(error, "strerror", None) or error, tempfile.gettempdir()
            remedy = f"make room there and in {temporary}, over which it is written, or choose another run_dir"
            raise OSError(f"{filepath} cannot be written: {reason}; {remedy}") from error
        if trainer.is_global_zero:
            os.replace(partial, filepath)
        trainer.strategy.barrier()


class Checkpoints:
    """The checkpoints of one training, in a folder named by what it depends on: another training's never fit.

    Args:
        folder: ``checkpoints`` of the run.
        stage: "dense", "tune" or "finetune".
        mark: hash of network, recipe, data and seed.
    """

    def __init__(self, folder: Path, stage: str, mark: str) -> None:
        self._folder, self._stage = folder, stage
        self._path = folder / f"{stage}-{mark}"

    @property
    def of_tuning(self) -> KeptTuning:
        """The same for a tuning, which has steps of its own."""
        return KeptTuning(self._path)

    @property
    def last(self) -> Path | None:
        """The state after the last whole epoch, None where there is none."""
        path = self._path / "last.ckpt"
        return path if path.is_file() else None

    def callbacks(self, metric: str | None) -> list[Callback]:
        """Write ``best.ckpt`` where the validation loss is lowest, and then ``last.ckpt`` after every epoch.

        Stopped between the two, a training makes the epoch once more, and with it the same ``best.ckpt``.

        Args:
            metric: name of the validation loss; None without validation samples, and then there is no best.
        """
        # The best first: what it knows by then of the best epoch stands in the last, which is what a training reads.
        ways = ({"best": metric} if metric else {}) | {"last": None}
        return [
            _WholeCheckpoint(
                self._path, filename=name, monitor=monitor, enable_version_counter=False, save_on_train_epoch_end=True
            )
            for name, monitor in ways.items()
        ]

    def load_best(self, model: nn.Module) -> None:
        """Give a network the weights of the epoch with the lowest validation loss; there is one."""
        path = self._path / "best.ckpt"
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        model.load_state_dict(
            {name.removeprefix("model."): tensor for name, tensor in state.items() if name.startswith("model.")}
        )

    @rank_zero_only
    def forget(self) -> None:
        """Remove those of the stage, once the weights they led to are on disk."""
        for path in self._folder.glob(f"{self._stage}-*"):
            shutil.rmtree(path, ignore_errors=True)
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()
