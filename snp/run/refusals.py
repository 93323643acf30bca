"""What can be refused before any work is done?  What otherwise would come to light after hours of training."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from snp.run.overrides import given_text

__all__ = [
    "BUSY",
    "PRECISIONS",
    "refuse_busy",
    "refuse_few",
    "refuse_precision",
    "refuse_processes",
    "refuse_seed",
    "refuse_strangers",
    "refuse_unwritable",
]

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
BUSY = "another run is writing there; wait for its end or choose another"
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
    given = [given_text(word) for word in words if word.startswith(f"{option}=")]
    if given and "${" in given[-1]:
        return
    folder = Path(given[-1] if given else default)
    there = next(parent for parent in (folder, *folder.parents) if parent.exists() or parent == parent.parent)
    remedy = f"give another folder with {option}=FOLDER"
    if not there.is_dir():
        raise NotADirectoryError(f"{option}={folder}: {there} is a file; {remedy}")
    if not os.access(there, os.W_OK | os.X_OK) or not _takes_folders(there):
        raise PermissionError(f"{option}={folder}: nothing may be written into {there.absolute()}; {remedy}")


def refuse_busy(words: Sequence[str], is_first: Callable[[], bool]) -> None:
    """Nobody writes into the folder that a single run is given, before Hydra writes its options there.

    Args:
        words: of the command line.
        is_first: asked where somebody does; other processes of a run belong to that one.

    Raises:
        ValueError: another run does.
    """
    given = [Path(given_text(word)) for word in words if word.startswith("hydra.run.dir=")]
    if not given or not (given[-1] / ".lock").is_file():
        return
    from filelock import FileLock, Timeout

    try:
        with FileLock(given[-1] / ".lock", timeout=0):
            return
    except Timeout as error:
        if is_first():
            raise ValueError(f"run_dir={given[-1]}: {BUSY}") from error


def _takes_folders(folder: Path) -> bool:
    """Can one be made there?  Some file systems refuse what rights allow."""
    try:
        with tempfile.TemporaryDirectory(dir=folder):
            return True
    except OSError:
        return False


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
