"""How does a run of a sweep fail, so that Hydra starts those behind it, and the process that speaks last knows of it?

In a grid a refused run returns as if it had nothing to compare: Hydra would start the others all the same, but raise
the first error at the end. Other sweepers must see an ordinary exception, which Optuna counts (`max_failure_rate`).
What ran in a process of its own (submitit) leaves a note in its folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from snp.run.errors import say
from snp.run.options import question
from snp.run.sweep import Sweep
from snp.run.sweepers import GRID, RunRefusedError, watched

__all__ = ["ended_elsewhere", "fails_alone"]

_HERE = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
_NOTE = "failed.json"


def fails_alone(error: Exception, sweep: Sweep, again: Callable[[], str]) -> bool:
    """Note what failed in a sweep; may the run return, so that Hydra starts the one behind it?

    Errors that are not a user's are raised: Hydra keeps them until all runs are through, and shows them then.

    Args:
        error: of the run.
        sweep: what is known of all.
        again: gives the command that goes on.

    Raises:
        RunRefusedError: a user's mistake in a run of a sweeper that looks at errors itself.
    """
    config = HydraConfig.get()
    if config.mode != RunMode.MULTIRUN:
        return False
    folder = Path(config.runtime.output_dir)
    told = sweep.note(error, folder.name)
    if config.launcher.get("_target_") != _HERE:
        (folder / _NOTE).write_text(json.dumps({"why": next(reversed(sweep.failed))}))
    is_grid = config.sweeper.get("_target_") == GRID
    if is_grid:
        sweep.go_on = again()
    if told is None:
        return False
    say(told)
    if not is_grid:
        raise RunRefusedError(told) from error
    return True


@contextmanager
def ended_elsewhere(sweep: Sweep, words: Sequence[str], again: Callable[[], str]) -> Iterator[None]:
    """Behind a sweep, what is known of runs in other processes, and of a sweeper that has started no more of them.

    Args:
        sweep: gets it.
        words: of this process's command line.
        again: gives the command that goes on.
    """
    HydraConfig.instance().cfg = None  # of an earlier call in this process
    try:
        with watched(sweep, lambda: _gather(sweep, again)):
            yield
    except SystemExit as ending:
        if isinstance(cause := ending.__context__, SystemExit):
            cause = cause.__context__
        if isinstance(cause, RunRefusedError):
            rate = HydraConfig.get().sweeper.get("max_failure_rate")
            sweep.ended = (
                f"The sweeper ended here (hydra.sweeper.max_failure_rate={rate}); with "
                "hydra.sweeper.max_failure_rate=1 it starts those behind a run that failed, too"
            )
        raise
    finally:
        sys.argv = [*words]
        if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
            _gather(sweep, again)


def _gather(sweep: Sweep, again: Callable[[], str]) -> None:
    config = HydraConfig.get()
    if config.launcher.get("_target_") == _HERE:
        return
    folder = Path(config.runtime.cwd, config.sweep.dir)
    for note in sorted(folder.glob(f"*/{_NOTE}")):
        sweep.note_why(json.loads(note.read_text())["why"], note.parent.name)
        note.unlink()
    if sweep.failed and config.sweeper.get("_target_") == GRID:
        sweep.go_on = again()
    if any(folder.glob("*/plan.json")):
        asked = config.runtime.choices.get("experiment")
        sweep.questions[str(folder)] = question(asked) if asked else ""
