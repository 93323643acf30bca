"""Does a trainer that leaves batches out leave out the right ones, say what it scored, and refuse to see nothing?"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn

from snp.data.digits import Digits
from snp.run.cache import Cache
from snp.run.folder import RunFolder
from snp.run.limits import refuse_no_steps, refuse_without_samples
from snp.run.optimised import refuse_missing_numbers
from snp.run.trainer import JobTrainer
from snp.run.trainer_options import refuse_values
from snp.run.training.recipe import TrainingRecipe
from snp.settings import PruneSettings

pytestmark = pytest.mark.filterwarnings("default")  # Lightning's hints on small data

COUNTS = {"train": 1294, "val": 144, "test": 359}


def digits() -> Digits:
    """Batches of 64 images of 8 x 8 pixels."""
    data = Digits(batch_size=64)
    data.configure(8, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)
    return data


def trainer(**options: Any) -> Trainer:
    """On the CPU, and quiet."""
    fixed = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
    return Trainer(**{**fixed, "enable_model_summary": False, "enable_progress_bar": False, **options})


def counted(model: nn.Module, loader: Any, num_batches: int | None) -> tuple[int, float]:
    """Samples of the first batches, and the share of them that a network gets right in percent, by hand."""
    batches = list(loader)[:num_batches]
    right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in batches)
    total = sum(len(labels) for _, labels in batches)
    return total, 100 * right / total


@pytest.mark.parametrize(
    ("limits", "num_test", "num_val"), [((None, None), 359, 144), ((2, 1), 128, 64), ((1, 0), 64, 0)]
)
def test_scores_are_of_the_batches_asked_for(
    limits: tuple[int | None, int | None], num_test: int, num_val: int, tmp_path: Path
) -> None:
    """Of test and of validation by their own limits; how many samples they are of stands beside them."""
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), digits()
    options = dict(zip(("limit_test_batches", "limit_val_batches"), limits, strict=True))
    JobTrainer(data, lambda **keywords: trainer(**options | keywords), [], RunFolder(tmp_path)).score("dense", model)
    found = json.loads((tmp_path / "metrics.json").read_text())
    total, share = counted(model, data.test_dataloader(), limits[0])
    assert found["test/samples"] == total == num_test
    assert found["dense/acc1_percent"] == pytest.approx(share, abs=1e-4)
    assert found.get("val/samples", 0) == num_val
    assert ("dense/val_acc1_percent" in found) == (num_val > 0)
    if num_val:
        total, share = counted(model, data.val_dataloader(), limits[1])
        assert total == num_val
        assert found["dense/val_acc1_percent"] == pytest.approx(share, abs=1e-4)


def test_weights_trained_by_other_options_of_the_trainer_are_others(tmp_path: Path) -> None:
    """A cache keeps them apart; how much is tested changes none."""
    entries = set()
    recipe = TrainingRecipe(1, 0.1, where="dense")
    for options in (
        {}, {"limit_train_batches": 4}, {"limit_train_batches": 8}, {"accumulate_grad_batches": 2},
        {"gradient_clip_val": 0.5}, {"limit_test_batches": 2},
    ):  # fmt: skip
        torch.manual_seed(0)
        cache = Cache(tmp_path, digits(), {}, 0, "32-true", options)
        entries.add(cache.dense_weights(nn.Linear(2, 2), recipe, lambda mark: None))
    assert len(entries) == 5


BEST = {"keep": "best"}


@pytest.mark.parametrize(
    ("options", "recipe", "counts", "words"),
    [
        ({"limit_test_batches": 0}, {}, {}, "trainer.limit_test_batches=0: networks are scored"),
        ({"limit_train_batches": 0}, {}, {}, "trainer.limit_train_batches=0 trains nothing"),
        ({"limit_test_batches": 0.1}, {}, {}, "trainer.limit_test_batches=0.1: this share of 6 test batches is less"),
        ({"limit_val_batches": 0.3}, {}, {}, "trainer.limit_val_batches=0.3: this share of 3 validation batches is"),
        ({"limit_train_batches": 0.04}, {}, {}, "trainer.limit_train_batches=0.04: this share of 20 training batches"),
        ({}, BEST, {"val": 0}, "finetune.keep=best needs validation samples: data.val_fraction above 0"),
        ({"limit_val_batches": 0}, BEST, {}, "finetune.keep=best needs validation batches: trainer.limit_val_batches"),
        (
            {"check_val_every_n_epoch": 5}, BEST, {},
            "needs validation after an epoch at least: found trainer.check_val_every_n_epoch=5 and finetune.epochs=3",
        ),
        ({"devices": 2}, {}, {"test": 1}, "data: the test part has 1 sample, and each of the 2 processes"),
        ({"devices": 3}, {}, {"val": 2}, "data: the validation part has 2 samples, and each of the 3 processes"),
    ],
)  # fmt: skip
def test_a_part_without_a_sample_to_see(
    options: dict[str, Any], recipe: dict[str, Any], counts: dict[str, int], words: str
) -> None:
    """Refused before any work, by the option that leaves nothing."""
    made = trainer(**options, strategy="ddp" if "devices" in options else "auto")
    with pytest.raises(ValueError, match=re.escape(words)):
        refuse_without_samples(made, digits(), COUNTS | counts, TrainingRecipe(3, 0.1, **recipe))


@pytest.mark.parametrize(
    ("options", "epochs", "counts"),
    [
        ({"limit_val_batches": 0, "devices": 2}, 3, {"val": 1}),  # nobody looks at it
        ({"limit_train_batches": 0}, 0, {}),
        ({"limit_test_batches": 0.17, "check_val_every_n_epoch": 5}, 3, {}),
        ({"devices": 2}, 3, {"test": 2, "val": 2}),
    ],
)
def test_a_sample_of_every_part(options: dict[str, Any], epochs: int, counts: dict[str, int]) -> None:
    """Is enough, and of a part that nobody looks at there may be none."""
    made = trainer(**options, strategy="ddp" if "devices" in options else "auto")
    refuse_without_samples(made, digits(), COUNTS | counts, TrainingRecipe(epochs, 0.1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"accumulate_grad_batches": 0},
            "trainer.accumulate_grad_batches must be a whole number of at least 1, found 0",
        ),
        (
            {"check_val_every_n_epoch": 0},
            "trainer.check_val_every_n_epoch must be a whole number of at least 1 or null",
        ),
        ({"gradient_clip_val": -1}, "trainer.gradient_clip_val must be a number of at least 0 or null, found -1"),
        (
            {"gradient_clip_val": float("nan")},
            "trainer.gradient_clip_val must be a number of at least 0 or null, found",
        ),
        ({"log_every_n_steps": -1}, "trainer.log_every_n_steps must be a whole number of at least 0 or null, found -1"),
        (
            {"max_epochs": 5},
            "trainer.max_epochs cannot be set: dense.epochs and finetune.epochs say how long is trained",
        ),
        ({"logger": True}, "trainer.logger cannot be set: logger=csv, wandb, both or none says where numbers go"),
        ({"deterministic": "warnn"}, "trainer.deterministic must be true or false or warn or null, found 'warnn'"),
    ],
)
def test_numbers_that_mean_nothing_to_a_trainer(options: dict[str, Any], words: str) -> None:
    """Are refused by name: Lightning would divide by them after all the pruning, or do as if they were not there."""
    with pytest.raises(ValueError, match=re.escape(words)):
        refuse_values(options)
    refuse_values(
        {"deterministic": "warn", "gradient_clip_val": None, "log_every_n_steps": 0, "num_sanity_val_steps": -1}
    )


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (0, "=0 trains nothing: ask for some, null for all, or dense.epochs=0"),
        (0.01, "=0.01: this share of 20 training batches is less than one"),
    ],
)
def test_a_dense_training_without_batches(limit: float, words: str) -> None:
    """Is refused by the option that leaves it none; nothing where nothing is trained."""
    made = trainer(limit_train_batches=limit)
    with pytest.raises(ValueError, match=re.escape(f"trainer.limit_train_batches{words}")):
        refuse_no_steps(made, TrainingRecipe(3, 0.1, where="dense"), COUNTS["train"], 64)
    refuse_no_steps(made, TrainingRecipe(0, 0.1, where="dense"), COUNTS["train"], 64)


@pytest.mark.parametrize("name", ["finetuned/val_acc1_percent", "val/samples"])
def test_a_number_of_samples_that_are_left_out(name: str) -> None:
    """A sweep that asks for it is refused before its first run."""
    asked: Any = ([name], Digits(), PruneSettings(), TrainingRecipe(1, 0.1))
    refuse_missing_numbers(*asked, trainer={"limit_val_batches": None})
    words = f"optimise={name}: trainer.limit_val_batches=0 leaves all of validation out"
    with pytest.raises(ValueError, match=re.escape(words)):
        refuse_missing_numbers(*asked, trainer={"limit_val_batches": 0})
