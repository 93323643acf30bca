"""How does a command line become a run?  ``snp run model=resnet50 prune.target_macs=0.5``, or ``python run.py ...``.

The only module that imports Hydra, and only once there is something to compose: help answers without it.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snp.run.errors import command_line, guarded
from snp.run.options import configuration, help_text, refuse_unknown
from snp.run.stopping import Stopped, stoppable

__all__ = ["run"]

_HELP = ("--help", "-h")


def run(words: Sequence[str] | None = None, program: str = "python run.py") -> None:
    """Run what the words of the command line ask for.

    Args:
        words: overrides and flags of Hydra; None for those of this process.
        program: how help calls the command.
    """
    given = list(sys.argv[1:] if words is None else words)
    if any(word in _HELP for word in given):
        print(help_text(program))
        return
    guarded(refuse_unknown)(given)
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

    OmegaConf.register_new_resolver("random_name", lambda: secrets.token_hex(3), use_cache=True, replace=True)

    @guarded
    def task(config: Any) -> float | None:
        sys.argv = before
        try:
            return _run(config)
        except Stopped as told:
            told.go_on = _again()
            raise

    composed = hydra.main(version_base="1.3", config_path=str(configuration()), config_name="config")(task)
    sys.argv = [before[0], *given]
    with command_line(HydraException):
        composed()


def _run(config: Any) -> float | None:
    """One composed configuration; the root's target is :func:`snp.run.pipeline.run`."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    is_multirun = HydraConfig.get().mode == RunMode.MULTIRUN
    found: dict[str, Any] = hydra.utils.instantiate(config)(config=plain, is_multirun=is_multirun)
    return found.get("pruned/acc1_percent", found.get("pruned/perplexity"))


def _is_first() -> bool:
    from snp.run.folder import is_first_process

    return is_first_process()


def _again() -> str:
    """The command that goes on where this process was stopped: the same one, in the folder it worked in."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from snp.run.facts import command

    config = HydraConfig.get()
    is_multirun = config.mode == RunMode.MULTIRUN
    name, folder = ("hydra.sweep.dir", config.sweep.dir) if is_multirun else ("hydra.run.dir", config.run.dir)
    words = [word for word in sys.argv if not word.startswith(f"{name}=")]
    return command([*words, f"{name}={Path(config.runtime.cwd, folder)}"])
