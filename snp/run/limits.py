"""Are there samples to train, validate and test on, on every process and within the limits of the trainer?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Trainer

from snp.data.loading import SampleData
from snp.data.text import TextData
from snp.run.training.recipe import TrainingRecipe

__all__ = ["refuse_best", "refuse_no_steps", "refuse_without_samples", "validates"]

_PARTS = {"train": "training", "val": "validation", "test": "test"}


def validates(trainer: Trainer, recipe: TrainingRecipe, num_samples: int) -> bool:
    """Is at least one epoch of a training validated?"""
    return _why_not(trainer, recipe, num_samples) is None


def refuse_best(trainer: Trainer, recipe: TrainingRecipe, num_samples: int) -> None:
    """An epoch is only kept for being the best where at least one is validated.

    Args:
        trainer: says how often that happens.
        recipe: of the training.
        num_samples: for validation.

    Raises:
        ValueError: none is.
    """
    why = _why_not(trainer, recipe, num_samples)
    if recipe.epochs and recipe.keep == "best" and why:
        raise ValueError(f"{recipe.where}.keep=best needs validation {why}")


def _why_not(trainer: Trainer, recipe: TrainingRecipe, num_samples: int) -> str | None:
    every = trainer.check_val_every_n_epoch
    if not num_samples:
        return "samples: data.val_fraction above 0"
    if trainer.limit_val_batches == 0:
        return "batches: trainer.limit_val_batches above 0, or null for all; found 0"
    if every is not None and every > recipe.epochs:
        return (
            f"after an epoch at least: found trainer.check_val_every_n_epoch={every} and "
            f"{recipe.where}.epochs={recipe.epochs}; lower the first"
        )
    return None


def refuse_without_samples(
    trainer: Trainer, data: SampleData, counts: Mapping[str, Any], finetune: TrainingRecipe
) -> None:
    """Every process has a batch of every part that is scored or trained on.  Without one it would end the run, late.

    Args:
        trainer: says how many processes there are, and which batches are left out.
        data: configured.
        counts: samples of the parts that are there: "train", "val" and "test".
        finetune: how the pruned network is trained; how the dense one is, and whether, it says itself and early.

    Raises:
        ValueError: one has none.
    """
    refuse_best(trainer, finetune, counts.get("val", 0))
    left_out = [part for part in _PARTS if getattr(trainer, f"limit_{part}_batches") == 0]
    if "test" in left_out:
        raise ValueError(
            "trainer.limit_test_batches=0: networks are scored on test batches; ask for some, null for all"
        )
    scored = [part for part in ("val", "test") if part in counts and part not in left_out]
    for part in scored:
        _refuse_few(f"the {_PARTS[part]} part has", counts[part], trainer.world_size)
    if isinstance(data, TextData) and data.has_second:
        _refuse_few("the second text has", len(data.second_dataloader().dataset), trainer.world_size)  # type: ignore[arg-type]
    for part in scored:
        _refuse_small_share(
            trainer, part, _num_batches(part, counts.get(part, 0) // trainer.world_size, data.batch_size)
        )
    refuse_no_steps(trainer, finetune, counts.get("train", 0), data.batch_size)


def refuse_no_steps(trainer: Trainer, recipe: TrainingRecipe, num_samples: int, batch_size: int) -> None:
    """A training sees a batch in every epoch.

    Args:
        trainer: says how many processes there are, and which batches are left out.
        recipe: of the training.
        num_samples: of the training part, over all processes.
        batch_size: of one process.

    Raises:
        ValueError: it sees none.
    """
    if not recipe.epochs:
        return
    if trainer.limit_train_batches == 0:
        raise ValueError(
            f"trainer.limit_train_batches=0 trains nothing: ask for some, null for all, or {recipe.where}.epochs=0"
        )
    _refuse_small_share(trainer, "train", _num_batches("train", num_samples // trainer.world_size, batch_size))


def _num_batches(part: str, num_samples: int, size: int) -> int:
    """Of the samples of one process: in training a small last batch is left out if there is another."""
    return num_samples // size if part == "train" and num_samples > size else -(-num_samples // size)


def _refuse_small_share(trainer: Trainer, part: str, num_batches: int) -> None:
    limit = getattr(trainer, f"limit_{part}_batches")
    if isinstance(limit, float) and num_batches and int(num_batches * limit) == 0:
        batches = f"{num_batches} {_PARTS[part]} batch{'es' * (num_batches != 1)}"
        raise ValueError(
            f"trainer.limit_{part}_batches={limit}: this share of {batches} is less than one; ask for a larger one, "
            "or for a number of batches"
        )


def _refuse_few(what: str, num_samples: int, num_processes: int) -> None:
    if num_samples < num_processes:
        raise ValueError(
            f"data: {what} {num_samples} sample{'s' * (num_samples != 1)}, and each of the {num_processes} processes "
            "of the trainer needs one to score; give more samples, or start fewer processes"
        )
