"""Is what a sweep asks for possible in every job?  Looked at before the first job starts, not after hours of others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from itertools import islice, product
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from snp.core.presets import refuse_overruled
from snp.run.errors import guarded
from snp.run.refusals import refuse_seed
from snp.run.root import asked_numbers, named_options, refuse_lost_sections, refuse_other_stages, root_options
from snp.run.sweepers import GRID

__all__ = ["CheckJobs"]

# What is made of options alone, without a look at data or weights.
_PARTS = ("model", "data", "prune", "calibration", "dense", "finetune")
_MOST_JOBS = 200  # composing one takes a tenth of a second


class CheckJobs(Callback):
    """Makes the settings of every job of a grid, and exits where one of them is refused.

    Other sweepers decide on a job when they know the last one's result.
    """

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """The jobs are known, and none has started."""
        HydraConfig.instance().set_config(deepcopy(config))  # where jobs run in other processes, nobody else does
        if config.hydra.sweeper.get("_target_") == GRID:
            with suppress(HydraException):  # an option that is not there: Hydra says so next, before the first job
                guarded(_check)(config)


def _check(config: DictConfig) -> None:
    given = [f"{name}={value}" for name, value in (config.hydra.sweeper.params or {}).items()]
    made: dict[str, Any] = {}
    for overrides in islice(_jobs([*given, *config.hydra.overrides.task]), _MOST_JOBS):
        job = hydra.compose("config", [*overrides])
        refuse_lost_sections(job)
        refuse_seed(job.seed)
        refuse_other_stages(job)
        plain: Any = OmegaConf.to_container(job, resolve=False)  # folders of Hydra are known inside a job only
        root_options({**plain, "overwrite": job.overwrite})
        optimised = asked_numbers(job.optimise)
        texts = {part: OmegaConf.to_yaml(job[part], resolve=True) for part in _PARTS}
        for part, text in texts.items():
            if text not in made:
                made[text] = hydra.utils.instantiate(job[part])
        refuse_overruled(made[texts["prune"]], named_options("prune", overrides, job))
        if optimised:
            from snp.run.optimised import refuse_missing_numbers

            data, prune, finetune = (made[texts[part]] for part in ("data", "prune", "finetune"))
            refuse_missing_numbers(optimised, data, prune, finetune, job.trainer)


def _jobs(words: list[str]) -> Iterator[tuple[str, ...]]:
    """Every combination of the values that options list; of an option that is given twice the last ones."""
    choices: dict[str, list[str]] = {}
    for override in OverridesParser.create().parse_overrides(words):
        key = override.get_key_element()
        if override.is_sweep_override() and override.is_discrete_sweep():
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            choices[key] = [override.input_line or ""]
    return product(*choices.values())
