"""How do tests start a run?  As a user does, in a process of its own; or, for mistakes found early, in this one."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
# An odd number of samples, images of 8 x 8 pixels, one epoch: seconds.
TINY = (
    "dense.epochs=1",
    "finetune.epochs=1",
    "calibration.samples=65",
    "data.image_size=8",
    "trainer=cpu",
    "trainer.enable_progress_bar=true",  # as on a terminal
)
ARTEFACTS = ("moments-*.safetensors", "plan.json", "pruned.safetensors", "metrics.json", "report.md", "variance.csv")


@dataclass(frozen=True)
class Ended:
    """What a run left on the terminal."""

    status: int
    stdout: str
    stderr: str


def environment(home: Path) -> dict[str, str]:
    """The environment of a new user without any account, on a machine without network."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "PL_", "LOCAL_RANK"))}
    offline = {"HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    # Building matplotlib's list of fonts for the new home would take longer than the run.
    return plain | offline | {"MPLBACKEND": "Agg", "MPLCONFIGDIR": mpl.get_cachedir()}


def start(*options: str, cwd: Path, tiny: bool = True) -> subprocess.Popen[str]:
    """Start a run in a process of its own, in a folder of its own."""
    command = [sys.executable, str(ROOT / "run.py"), *(TINY if tiny else ()), *options]
    return subprocess.Popen(
        command, cwd=cwd, env=environment(cwd), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait(process: subprocess.Popen[str], timeout: float = 280) -> Ended:
    """Wait for the end of a run; none is left behind when it takes too long."""
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate()
        raise AssertionError(f"the run did not end within {timeout} s:\n{stdout}\n{stderr}") from None
    return Ended(process.returncode, stdout, stderr)


def run(*options: str, cwd: Path, tiny: bool = True) -> Ended:
    """One whole run in a process of its own."""
    return wait(start(*options, cwd=cwd, tiny=tiny))


def run_here(*options: str, folder: Path, tiny: bool = True) -> Ended:
    """The same in this process, without the seconds that imports take; `folder` gets the run folder."""
    quiet = ("hydra/job_logging=disabled", "hydra/hydra_logging=disabled", "logger=none")
    arguments = [
        *quiet,
        *(TINY if tiny else ()),
        f"hydra.run.dir={folder}/run",
        f"hydra.sweep.dir={folder}/sweep",
        *options,
    ]
    stdout, stderr, status = io.StringIO(), io.StringIO(), 0
    with _as_it_was(["run.py", *arguments]), contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
        except SystemExit as ending:
            status = ending.code if isinstance(ending.code, int) else 0
    return Ended(status, stdout.getvalue(), stderr.getvalue())


@contextlib.contextmanager
def _as_it_was(arguments: list[str]) -> Iterator[None]:
    variables, before = dict(os.environ), sys.argv
    sys.argv = arguments
    try:
        yield
    finally:
        sys.argv = before
        os.environ.clear()
        os.environ.update(variables)


def points(parameters: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every point of the grid that the `parameters` of a sweep file span."""
    choices = [entry["values"] if "values" in entry else [entry["value"]] for entry in parameters.values()]
    return [dict(zip(parameters, chosen, strict=True)) for chosen in product(*choices)]


def overrides(point: Mapping[str, Any]) -> list[str]:
    """What W&B's `${args_no_hyphens}` makes of a point: `name=value` with Python's text of the value, by name."""
    return [f"{name}={value}" for name, value in sorted(point.items())]
