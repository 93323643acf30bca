"""Does a training that is stopped, at whatever moment, end with the weights that it would have had without that?"""

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, LambdaCallback
from torch import nn

from snp.data.digits import Digits
from snp.run.folder import RunFolder
from snp.run.stopping import Stopped
from snp.run.trainer import JobTrainer
from snp.run.training.checkpoints import Checkpoints
from snp.run.training.recipe import TrainingRecipe

pytestmark = pytest.mark.filterwarnings("default")  # Lightning's hints on small data

BEST = TrainingRecipe(4, 3.0, schedule="constant", weight_decay=0.0, keep="best")

State = dict[str, torch.Tensor]


class Losses(Callback):
    """The validation loss of every epoch."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """It was logged."""
        self.found.append(float(trainer.callback_metrics["finetune/val_loss"]))


class StoppedAt(Checkpoint):
    """A training that is told to stop at the end of an epoch, before or after a checkpoint is written.

    Args:
        epoch: from 1.
        written: so many checkpoints of the epoch are written by then.
    """

    def __init__(self, epoch: int, written: int) -> None:
        self.epoch, self.written = epoch, written

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning calls checkpoints last, in their order."""
        if trainer.current_epoch + 1 == self.epoch:
            raise Stopped(15)

    def into(self, callbacks: list[Callback]) -> list[Callback]:
        """The callbacks of a training with this one at its place; of other work as they are."""
        places = [place for place, callback in enumerate(callbacks) if isinstance(callback, Checkpoint)]
        place = [*places, len(callbacks)][self.written] if places else 0
        return [*callbacks[:place], self, *callbacks[place:]] if places else callbacks


Change = Callable[[list[Callback]], list[Callback]]


def trained(folder: Path, recipe: TrainingRecipe, change: Change = list) -> tuple[State, float]:
    """State of a small network after a fit that keeps its checkpoints in the folder, and the seconds of it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    data = Digits(batch_size=256)
    data.configure(8, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)
    fixed = {"accelerator": "cpu", "devices": 1, "num_sanity_val_steps": 0}
    fixed |= {"enable_model_summary": False, "enable_progress_bar": False}

    def trainer(callbacks: list[Callback], **keywords: Any) -> Trainer:
        return Trainer(callbacks=change(callbacks), **fixed | keywords)

    kept = Checkpoints(folder / "checkpoints", recipe.where, "mark")
    seconds = JobTrainer(data, trainer, [], RunFolder(folder)).fit(model, recipe, checkpoints=kept)
    return {name: entry.clone() for name, entry in model.state_dict().items()}, seconds


def fitted(folder: Path, recipe: TrainingRecipe, change: Change = list) -> State:
    """The state alone."""
    return trained(folder, recipe, change)[0]


def same(one: State, other: State) -> bool:
    """Are two states equal to the last bit?"""
    return one.keys() == other.keys() and all(torch.equal(entry, other[name]) for name, entry in one.items())


@pytest.mark.parametrize(("where", "keep"), [("dense", "last"), ("finetune", "last"), ("finetune", "best")])
def test_averaged_weights_of_a_training_that_had_ended(where: Any, keep: Any, tmp_path: Path) -> None:
    """Stopped between its last checkpoint and its use, a training goes on to the running mean of its weights."""
    recipe = TrainingRecipe(2, 0.1, average=0.9, where=where, keep=keep)
    undisturbed = fitted(tmp_path, recipe)
    assert same(fitted(tmp_path, recipe), undisturbed)  # its last checkpoint is all that is left to go on from
    folder = tmp_path / "stopped"
    with pytest.raises(Stopped):
        fitted(folder, recipe, StoppedAt(2, 1).into)
    assert same(fitted(folder, recipe), undisturbed)


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> State:
    """The best epoch's weights of a training without interruptions: the second one's, and the last beats the first."""
    losses = Losses()
    found = fitted(tmp_path_factory.mktemp("best"), BEST, lambda callbacks: [*callbacks, losses])
    first, second, third, last = losses.found
    assert second < last < first < third
    return found


@pytest.mark.parametrize("written", [0, 1, 2])
@pytest.mark.parametrize("epoch", [2, 4])
def test_best_epoch_of_a_training_that_was_stopped(epoch: int, written: int, best: State, tmp_path: Path) -> None:
    """Before, between and after the two checkpoints of the best epoch, and of the last: the best is not forgotten."""
    with pytest.raises(Stopped):
        fitted(tmp_path, BEST, StoppedAt(epoch, written).into)
    assert same(fitted(tmp_path, BEST), best)


def test_best_epoch_of_a_training_whose_folder_moved(best: State, tmp_path: Path) -> None:
    """The folder's new place is where the best one is looked for, and its score still counts."""
    with pytest.raises(Stopped):
        fitted(tmp_path / "before", BEST, StoppedAt(2, 2).into)
    (tmp_path / "before").rename(tmp_path / "now")
    assert same(fitted(tmp_path / "now", BEST), best)
    assert not (tmp_path / "before").exists()


def test_no_room_for_a_checkpoint(best: State, tmp_path: Path) -> None:
    """One sentence says what cannot be written and where room is needed; with room it goes on."""
    small, large = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, large))  # of a file: less than a checkpoint has
    try:
        with pytest.raises(OSError, match=r"best\.ckpt cannot be written: File too large; make room there and in \S+,"):
            fitted(tmp_path, BEST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (small, large))
    assert not list((tmp_path / "checkpoints").rglob("*.*"))
    assert same(fitted(tmp_path, BEST), best)


def test_seconds_of_a_training_that_was_stopped(tmp_path: Path) -> None:
    """Those of the earlier start up to its last checkpoint count, too."""
    recipe = TrainingRecipe(2, 0.1)

    def slow_then_stopped(callbacks: list[Callback]) -> list[Callback]:
        slow = LambdaCallback(on_train_epoch_start=lambda *_: time.sleep(1.0))
        return [slow, *StoppedAt(1, 2).into(callbacks)]

    with pytest.raises(Stopped):
        fitted(tmp_path, recipe, slow_then_stopped)
    assert trained(tmp_path, recipe)[1] > 1.0
    assert trained(tmp_path, recipe)[1] > 1.0
