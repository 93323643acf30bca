"""What may the options be that belong to no group, which numbers does a sweeper get, and what was asked for by name?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from snp.core.values import path_of

__all__ = ["asked_numbers", "named_options", "refuse_lost_sections", "refuse_other_stages", "root_options"]

# With one option of each.
_SECTIONS = {
    "model": "model.pretrained=true",
    "data": "data.batch_size=64",
    "prune": "prune.target_macs=0.5",
    "calibration": "calibration.samples=512",
    "dense": "dense.epochs=0",
    "finetune": "finetune.epochs=0",
    "trainer": "trainer.devices=1",
    "logger": "logger.csv=true",
}


def root_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Folders and switch of a run as it takes them: names of folders that Hydra read as numbers are text again.

    Args:
        given: all options of a run, composed.

    Raises:
        ValueError: one of them is of the wrong kind.
    """
    overwrite = given.get("overwrite", False)
    if not isinstance(overwrite, bool):
        # "no" and "off" are words here and count as true: results would be lost to them.
        raise ValueError(f"overwrite must be true or false, found {overwrite!r}")
    cache = given.get("cache_dir")
    return {
        "run_dir": path_of(given["run_dir"], "run_dir"),
        "cache_dir": None if cache is None or cache == "" else path_of(cache, "cache_dir"),
        "overwrite": overwrite,
    }


def asked_numbers(optimise: object) -> tuple[str, ...] | None:
    """Names of the numbers that a sweeper gets, None for the last stage's score on the validation samples.

    Args:
        optimise: the option, a name or several.

    Raises:
        ValueError: it is neither.
    """
    if optimise is None or optimise in ("", []):
        return None
    names = [optimise] if isinstance(optimise, str) else optimise
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            "optimise must be a number's name in metrics.json, a list such as [finetuned/val_acc1_percent,pruned/macs] "
            f"or null, found {optimise!r}"
        )
    return tuple(names)


def named_options(section: str, words: Iterable[str], config: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a section that stand at the command line, and their values.

    Args:
        section: ``prune``.
        words: overrides as Hydra has them, those of a sweep among them.
        config: all options, composed.
    """
    found = (re.match(rf"\+*{section}\.(\w+)=", word) for word in words)
    return {match[1]: config[section][match[1]] for match in found if match and match[1] in config[section]}


def refuse_lost_sections(config: Mapping[str, Any]) -> None:
    """Every section of options is still one: `prune=0.5` puts a number in the place of all of them, `~prune` nothing.

    Raises:
        ValueError: one is not.
    """
    for section, example in _SECTIONS.items():
        if section not in config:
            raise ValueError(
                f"~{section} takes away all options of {section}, which a run needs: set one, as {example}"
            )
        if not isinstance(config[section], Mapping):
            found = "null" if config[section] is None else config[section]
            raise ValueError(f"{section}={found} is given in place of all options of {section}: set one, as {example}")


def refuse_other_stages(config: Mapping[str, Any]) -> None:
    """Each recipe of training is that of its own stage, which its ``where`` says.

    Raises:
        ValueError: it was set to something else.
    """
    for stage in ("dense", "finetune"):
        recipe = config.get(stage)
        found = recipe.get("where", stage) if isinstance(recipe, Mapping) else stage
        if found != stage:
            raise ValueError(f"{stage}.where names the stage and is not yours to set: leave it out; found {found!r}")
