"""What becomes of a sweep whose sweeper or launcher ends in an error of its own, because runs failed?

Optuna's sweeper has nothing to choose from where all of them did, and submitit gives up at the first process that was
killed. Either would be a stack trace that says nothing of the runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException, HydraException
from omegaconf import DictConfig

from snp.run.errors import say
from snp.run.sweep import Sweep

__all__ = ["GRID", "NothingToChooseError", "RunRefusedError", "watched"]

# Runs that are known beforehand, and one after the other in this process.
GRID = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


class RunRefusedError(CompactHydraException):
    """A run cannot be done as asked; the sentence that says why is on standard error already."""


class NothingToChooseError(CompactHydraException):
    """A sweeper has failed because all runs did."""


@contextmanager
def watched(sweep: Sweep, gather: Callable[[], None]) -> Iterator[None]:
    """Sweepers that are made meanwhile end without a stack trace of their own where runs failed.

    Args:
        sweep: what is known of the runs.
        gather: adds what is known of those in other processes.
    """
    make = Plugins.instantiate_sweeper

    def made(plugins: Plugins, *, config: DictConfig, **given: Any) -> Any:
        sweeper = make(plugins, config=config, **given)
        sweeper.sweep = partial(_swept, sweeper.sweep, sweep, gather, config)  # type: ignore[method-assign]
        return sweeper

    Plugins.instantiate_sweeper = made  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Plugins.instantiate_sweeper = make  # type: ignore[method-assign]


def _swept(
    run: Callable[..., Any], sweep: Sweep, gather: Callable[[], None], config: DictConfig, arguments: list[str]
) -> Any:
    try:
        with _killed_as_failed(sweep, config):
            return run(arguments=arguments)
    except HydraException:
        raise
    except Exception as error:
        gather()
        if not sweep.failed or sweep.questions or sweep.knows(error):
            raise
        told = f"no run has finished, so the sweeper has nothing to choose from: {error}"
        raise NothingToChooseError(told) from error


@contextmanager
def _killed_as_failed(sweep: Sweep, config: DictConfig) -> Iterator[None]:
    """A process of submitit that left no result is a run that failed; the others are waited for."""
    if ".hydra_submitit_launcher." not in str(config.hydra.launcher.get("_target_")):
        yield
        return
    from submitit import Job
    from submitit.core.utils import UncompletedJobError

    results, is_grid = Job.results, config.hydra.sweeper.get("_target_") == GRID

    def found(job: Any) -> Any:
        try:
            return results(job)
        except UncompletedJobError:
            overrides, _, number, *_ = job.submission().args
            why = (
                f"its process ended before the run did, killed or out of memory (state {job.state}); what it printed "
                f"is in {job.paths.stdout} and {job.paths.stderr}"
            )
            sweep.note_why(why, _name(Path(config.hydra.sweep.dir), number))
            say(why)
            if is_grid:
                return [JobReturn(overrides=overrides, status=JobStatus.COMPLETED)]
            return [JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=RunRefusedError(why))]

    Job.results = found  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Job.results = results  # type: ignore[method-assign]


def _name(folder: Path, number: int) -> str:
    """That of the folder of a run, where it has made one."""
    names = [path.name for path in folder.glob(f"{number}_*")]
    return names[0] if len(names) == 1 else str(number)
