"""How does a command line become a run?  ``snp run model=resnet50 prune.target_macs=0.5``, or ``python run.py ...``.

Hydra is imported once there is something to compose, and not before: help answers without it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from snp.run.errors import command_line, guarded
from snp.run.help import help_text, inspect_text
from snp.run.hidden import command
from snp.run.options import asked_name, configuration, objective, opened, question, refuse_unknown
from snp.run.overrides import override
from snp.run.refusals import refuse_busy, refuse_unwritable
from snp.run.stopping import Stopped, stoppable
from snp.run.sweep import Sweep

__all__ = ["run"]

# Where Lightning looks for the number of a process, in this order.
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
_HELP, _SWEEP = ("--help", "-h"), ("-m", "--multirun")


def run(words: Sequence[str] | None = None, program: str = "python run.py") -> None:
    """Run what the words of the command line ask for.

    Args:
        words: overrides and flags of Hydra; None for those of this process.
        program: how help calls the command.
    """
    given = list(sys.argv[1:] if words is None else words)
    if any(word in _HELP for word in given):
        with contextlib.suppress(BrokenPipeError):  # of a pager that was left, or head
            print(inspect_text() if program == "snp inspect" else help_text(program), flush=True)
        return
    guarded(refuse_unknown)(given)
    given = list(map(opened, given))
    is_sweep = any(word in _SWEEP for word in given)
    guarded(refuse_unwritable)(given, "multirun" if is_sweep else "outputs", is_multirun=is_sweep)
    if not is_sweep:
        guarded(refuse_busy)(given, _is_first)
    # Hydra takes this flag before or behind all options, not among them.
    given.sort(key=lambda word: word not in _SWEEP)
    # Lightning starts further processes by the words of this one; Hydra reads others.
    before = sys.argv
    with stoppable(_is_first):
        try:
            _compose_and_run(before, given)
        finally:
            sys.argv = before


def _compose_and_run(before: list[str], given: list[str]) -> None:
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    from snp.run.failed_runs import ended_elsewhere

    OmegaConf.register_new_resolver("random_name", lambda: secrets.token_hex(3), use_cache=True, replace=True)
    OmegaConf.register_new_resolver("asked", lambda words: asked_name(words, given), replace=True)
    sweep = Sweep()

    @guarded
    def task(config: Any) -> Any:
        sys.argv = before
        try:
            return _run(config, sweep)
        except Stopped as told:
            told.go_on = _again()
            raise
        except Exception as error:
            from snp.run.failed_runs import fails_alone

            if not fails_alone(error, sweep, _again):
                raise

    composed = hydra.main(version_base="1.3", config_path=str(configuration()), config_name="config")(task)
    sys.argv = [before[0], *given]
    with sweep.concluded(), ended_elsewhere(sweep, before, _again), command_line(HydraException):
        composed()


def _run(config: Any, sweep: Sweep) -> Any:
    """One composed configuration; the root's target is :func:`snp.run.pipeline.run`.

    Args:
        config: all options.
        sweep: gets the folder of the sweep that the run is part of, and the question that it asks, once it finished.

    Returns:
        What a sweeper optimises: the numbers that ``optimise`` names, else the last stage's validation score.

    Raises:
        ValueError: an option has no such value.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf, open_dict

    from snp.run.root import asked_numbers, refuse_lost_sections, refuse_other_stages, root_options

    with open_dict(config):
        optimised = asked_numbers(config.pop("optimise", None))
    refuse_lost_sections(config)
    config.update(root_options(config))
    refuse_other_stages(config)
    is_multirun = HydraConfig.get().mode == RunMode.MULTIRUN
    folder = Path(HydraConfig.get().runtime.cwd, HydraConfig.get().sweep.dir)
    if is_multirun:
        # Runs of a sweep share what is the same for them: a network is trained once for each seed, not for each run.
        config.cache_dir = config.cache_dir or str(folder / "shared")
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    found: dict[str, Any] = _job(config, optimised)(config=plain, is_multirun=is_multirun)
    if not found:  # a dry run leaves nothing to compare
        return None
    if is_multirun:
        asked = HydraConfig.get().runtime.choices.get("experiment")
        sweep.questions[str(folder)] = question(asked) if asked else ""
    return objective(found, optimised)


def _job(config: Any, optimised: Sequence[str] | None) -> partial[dict[str, Any]]:
    """The run that a configuration asks for, not begun.

    Raises:
        ValueError: it will not have one of the numbers that are optimised, or its preset overrules an option.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from snp.core.presets import refuse_overruled
    from snp.run.root import named_options

    job: partial[dict[str, Any]] = hydra.utils.instantiate(config)
    refuse_overruled(job.keywords["prune"], named_options("prune", HydraConfig.get().overrides.task, config))
    if optimised:
        from snp.run.optimised import refuse_missing_numbers

        data, prune, finetune = (job.keywords[part] for part in ("data", "prune", "finetune"))
        refuse_missing_numbers(optimised, data, prune, finetune, config.trainer)
    return job


def _is_first() -> bool:
    """Is this the process that speaks?  Until Lightning is loaded, by the variables that it will ask.

    Nothing is imported: behind a stop while torch was loaded, a second attempt would end in a segmentation fault.
    """
    if asked := getattr(sys.modules.get("snp.run.folder"), "is_first_process", None):
        return bool(asked())
    return int(next((os.environ[name] for name in _RANKS if name in os.environ), 0)) == 0


def _again() -> str:
    """The command that goes on where this process was stopped: the same one, in the folder it worked in."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    config = HydraConfig.get()
    is_multirun = config.mode == RunMode.MULTIRUN
    name, folder = ("hydra.sweep.dir", config.sweep.dir) if is_multirun else ("hydra.run.dir", config.run.dir)
    words = [word for word in sys.argv if not word.startswith(f"{name}=")]
    return command([*words, override(name, str(Path(config.runtime.cwd, folder)))])
