"""What can be refused before any work is done?  What otherwise would come to light after hours of training."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snp.run.hidden import HIDDEN

if TYPE_CHECKING:  # help and refusals of words come before torch is imported, which takes seconds
    from snp.run.training.recipe import TrainingRecipe

__all__ = [
    "PRECISIONS",
    "refuse_best",
    "refuse_few",
    "refuse_precision",
    "refuse_processes",
    "refuse_replacing",
    "refuse_seed",
    "refuse_strangers",
    "refuse_unwritable",
]

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
_DECIDING = ("model", "data", "prune", "calibration", "dense", "finetune", "seed")  # what results depend on
_LARGEST_SEED = 2**32 - 1  # of numpy


def refuse_unwritable(words: Sequence[str], default: str, *, is_multirun: bool) -> None:
    """The folder of a run or sweep can be made, before Hydra tries to and says so in words of its own.

    Args:
        words: of the command line.
        default: folder that is taken where they name none.
        is_multirun: the run is a sweep.

    Raises:
        OSError: it cannot, because of which folder or file.
    """
    option = "hydra.sweep.dir" if is_multirun else "hydra.run.dir"
    given = [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
    if given and "${" in given[-1]:
        return
    folder = Path(given[-1] if given else default)
    there = next(parent for parent in (folder, *folder.parents) if parent.exists() or parent == parent.parent)
    remedy = f"give another folder with {option}=FOLDER"
    if not there.is_dir():
        raise NotADirectoryError(f"{option}={folder}: {there} is a file; {remedy}")
    if not os.access(there, os.W_OK | os.X_OK) or not _takes_folders(there):
        raise PermissionError(f"{option}={folder}: nothing may be written into {there.absolute()}; {remedy}")


def _takes_folders(folder: Path) -> bool:
    """Can one be made there?  Some file systems refuse what rights allow."""
    try:
        with tempfile.TemporaryDirectory(dir=folder):
            return True
    except OSError:
        return False


def refuse_replacing(folder: Path, config: Mapping[str, Any]) -> None:
    """Results that are there were made by the same settings: nobody's weights go because a folder was named twice.

    Args:
        folder: of the run; beside a plan ``run.json`` says by which settings that was made.
        config: of this run, as it is written there.

    Raises:
        ValueError: they were made by others.
    """
    if not (folder / "plan.json").exists():  # it ended before there were results
        return
    try:
        earlier = json.loads((folder / "run.json").read_text())["config"]
    except (OSError, ValueError, KeyError):
        return
    before, now = _flat(earlier), _flat(config)
    # What only one of them knows is an option that another version of the code has; what is hidden, nobody can compare.
    known = [name for name in now if before.get(name, HIDDEN) != HIDDEN]
    changed = [f"{name} was {before[name]!r} and is {now[name]!r}" for name in known if before[name] != now[name]]
    if changed:
        shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        raise ValueError(
            f"run_dir={folder} holds results of other settings ({shown}): give another folder with "
            "hydra.run.dir=FOLDER, or overwrite=true, which replaces what these settings change"
        )


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted names of the settings that results depend on -> their values."""
    if not isinstance(config, Mapping):
        return {prefix: config}
    found: dict[str, Any] = {}
    for name, value in config.items():
        full = f"{prefix}.{name}" if prefix else str(name)
        if full.partition(".")[0] in _DECIDING and name != "num_workers":
            found |= _flat(value, full)
    return found


def refuse_seed(seed: int) -> None:
    """Every library takes the seed.

    Raises:
        ValueError: one of them does not.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= _LARGEST_SEED:
        raise ValueError(f"seed must be a whole number from 0 to {_LARGEST_SEED}, found {seed!r}")


def refuse_precision(precision: str) -> None:
    """The network's own weights keep their type while it is trained.

    Args:
        precision: of the trainer, as Lightning calls it.

    Raises:
        ValueError: they do not.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"trainer.precision={precision} would change the types of the network's own weights; choose one of "
            f"{', '.join(PRECISIONS)}. A network that is in half or double precision already is pruned as it is by "
            "snp.prune(model, batches)"
        )


def refuse_processes(num_processes: int, num_samples: int, is_multirun: bool) -> None:
    """Several processes work in a run of their own, each with samples to calibrate on.

    Args:
        num_processes: of the trainer.
        num_samples: calibration samples over all of them.
        is_multirun: this run is one of several in one process.

    Raises:
        ValueError: the processes do not work here.
    """
    if is_multirun and num_processes > 1:
        raise ValueError(
            f"trainer: {num_processes} processes do not work inside a multirun (-m), where every process would start "
            "the whole sweep again; use trainer=auto, or start every run as a command of its own"
        )
    if num_samples < num_processes:
        raise ValueError(
            f"calibration.samples={num_samples}: each of the {num_processes} processes of the trainer needs a sample"
        )


def refuse_few(num_processes: int, num_samples: int, num_repeats: int) -> None:
    """Every process has a sample to calibrate on once repeats are left out.

    Raises:
        ValueError: there are fewer than processes.
    """
    if num_samples - num_repeats < num_processes:
        raise ValueError(
            f"calibration.samples={num_samples}: only {num_samples - num_repeats} of them differ, and each of the "
            f"{num_processes} processes of the trainer needs a sample; ask for more samples, or start fewer processes"
        )


def refuse_best(recipe: TrainingRecipe, *, validates: bool) -> None:
    """An epoch is only kept for being the best where all of them are validated.

    Raises:
        ValueError: they are not.
    """
    if recipe.epochs and recipe.keep == "best" and not validates:
        raise ValueError(f"{recipe.where}.keep=best needs validation samples: data.val_fraction above 0")


def refuse_strangers(reads: str, holds: str) -> None:
    """The network reads what the data set holds.

    Args:
        reads: "images" or "text".
        holds: the same.

    Raises:
        ValueError: it does not.
    """
    if reads != holds:
        choices = {"text": "data=text data.train=FILE data.test=FILE or data=wikitext2", "images": "data=image_folder"}
        raise ValueError(f"model: this one reads {reads}, and the data are {holds}; choose {choices[reads]}")
