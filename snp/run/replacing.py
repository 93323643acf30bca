"""Do the results in a folder stay?  They do, unless they are of this very run or were told to give way."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from snp.core.deciding import deciding
from snp.run.hidden import HIDDEN

__all__ = ["refuse_other_facts", "refuse_replacing"]


def refuse_replacing(folder: Path, config: Mapping[str, Any]) -> None:
    """Results that are there were made by the same settings: nobody's weights go because a folder was named twice.

    Args:
        folder: of the run; beside a plan ``run.json`` says by which settings that was made.
        config: of this run, as it is written there.

    Raises:
        ValueError: they were made by others.
    """
    before, now = deciding(_earlier(folder).get("config") or {}), deciding(config)
    # What only one of them knows is an option that another version of the code has; what is hidden, nobody can compare.
    known = [name for name in now if before.get(name, HIDDEN) != HIDDEN]
    _refuse(
        folder, [f"{name} was {before[name]!r} and is {now[name]!r}" for name in known if before[name] != now[name]]
    )


def refuse_other_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """They are also of the same data and given weights, and of as many processes, where these trained together.

    Args:
        folder: of the run.
        facts: of this run, as ``run.json`` will hold them.

    Raises:
        ValueError: they are not.
    """
    earlier = _earlier(folder)
    before, now = (found.get("data", {}).get("contents") for found in (earlier, facts))
    if before and before != now:
        name = facts["data"].get("name", "data")
        _refuse(folder, [f"{name}: names, sizes or contents of its files are not what they were"], "data")
    # Where both were random, settings and seed say all; where no fact is, an earlier version of the code ran.
    if earlier.get("given_weights", facts.get("given_weights")) != facts.get("given_weights"):
        _refuse(folder, [f"{_origin(facts)}: the weights there are not what they were"], "weights")
    before, now = (found.get("processes") for found in (earlier, facts))
    trained = (folder / "finetuned.safetensors", *folder.glob("checkpoints/finetune-*"))
    if before and before != now and any(path.exists() for path in trained):
        # Each of them trains on batches of its own.
        _refuse(folder, [f"processes of the trainer were {before} and are {now}"])


def _origin(facts: Mapping[str, Any]) -> str:
    """Which option says where the dense network's weights come from."""
    model = facts.get("config", {}).get("model", {})
    if model.get("checkpoint"):
        return f"model.checkpoint={model['checkpoint']}"
    return f"model.pretrained={str(bool(model.get('pretrained'))).lower()}"


def _earlier(folder: Path) -> dict[str, Any]:
    """What ``run.json`` says of the results in a folder; nothing where there are none."""
    if not (folder / "plan.json").exists():  # it ended before there were results
        return {}
    try:
        found = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _refuse(folder: Path, changed: Iterable[str], what: str = "settings") -> None:
    if told := [*changed]:
        shown = ", ".join(told[:3]) + (f" and {len(told) - 3} more" if len(told) > 3 else "")
        raise ValueError(
            f"run_dir={folder} holds results of other {what} ({shown}): give another folder with "
            f"hydra.run.dir=FOLDER, or overwrite=true, which replaces what these {what} change"
        )
