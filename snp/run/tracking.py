"""What does W&B show of a finished run?  What was done, not only what was typed: names, numbers, tables, files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from snp.report.choice import better_stage
from snp.report.cuts import group_table
from snp.report.document import Cell, Table
from snp.report.record import Record, read_record
from snp.report.settings import FOUND
from snp.report.stages import SMALL, STAGES
from snp.run.folder import log
from snp.run.hidden import without_secrets

__all__ = ["name_of", "tags_of", "track"]

_LONGEST_TAG = 64
_FACTS = ("command", "commit", "machine", "versions", "data", "weights")
_PAGES = ("plan.json", "run.json", "metrics.json", "report.html", "model_card.md")


@rank_zero_only
def track(loggers: Sequence[Logger], folder: Path) -> None:
    """Send what a run left in its folder to W&B; without W&B do nothing.

    The summary holds every number of `metrics.json`; `config` gets what was decided in place of `auto` and null, with
    data, machine and commit; `groups` is a table with a row per group; figures show under `figures/<name>`; plan,
    weights and pages are an artifact of type `model` that names the dense weights it was made from. Where W&B cannot
    take something, that is said, and the run ends as it would without it: all results lie in its folder.

    Args:
        loggers: what :func:`snp.run.loggers.build_loggers` returned.
        folder: of the finished run.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            try:
                _track(logger.experiment, read_record(folder))
            except (OSError, wandb.Error) as error:
                log(f"note: W&B did not take all of this run, whose results lie in its folder: {error}")


def _track(run: Any, record: Record) -> None:
    run.name = name_of(record)
    run.tags = tuple(dict.fromkeys((*(run.tags or ()), *tags_of(record))))
    run.config.update(_decided(record), allow_val_change=True)
    run.summary.update({name: value for name, value in record.metrics.items() if value is not None})
    if record.groups:
        run.log({"groups": _wandb_table(group_table(record))}, commit=False)
    for figure in sorted((record.folder / "figures").glob("*.png")):
        run.log({f"figures/{figure.stem}": wandb.Image(str(figure))}, commit=False)
    run.log({})
    _log_artifacts(run, record)


def name_of(record: Record) -> str:
    """What was asked, as a name: "resnet50 imagenet macs 0.5 output/output seed 0"."""
    target = "" if record.target is None else "{} {:g}".format(*record.target)
    seed = record.seed
    parts = (record.model, record.data, target, record.rule.replace(" ", ""), "" if seed is None else f"seed {seed}")
    return " ".join(part for part in parts if part)


def tags_of(record: Record) -> tuple[str, ...]:
    """Network, data, rule and target, one by one, so that runs can be filtered by them."""
    settings, target = record.settings, record.target
    words = (
        record.model,
        record.data,
        *(settings.get(name) for name in ("planner", "ordering", "cut", "calibration")),
        None if target is None else f"target_{target[0]}",
        {True: None, False: "no reconstruction"}.get(settings.get("reconstruct", True), "tuned without labels"),
    )
    return tuple(dict.fromkeys(str(word)[:_LONGEST_TAG] for word in words if word))


def _decided(record: Record) -> dict[str, Any]:
    config = record.facts.get("config") or {}
    decided = {name: value for name, value in record.settings.items() if name not in FOUND}
    found = {
        "prune": {**(config.get("prune") or {}), **decided},
        **{name: record.settings.get(name) for name in ("level", "tilted")},
        "facts": {name: record.facts.get(name) for name in _FACTS},
    }
    hidden: dict[str, Any] = without_secrets(found)
    return hidden


def _wandb_table(table: Table) -> wandb.Table:
    """Numbers as numbers where the page knows them."""
    rows = [
        [cell.value if isinstance(cell, Cell) and cell.value is not None else _plain(cell) for cell in row]
        for row in table.rows
    ]
    return wandb.Table(columns=list(table.header), data=rows, allow_mixed_types=True)


def _plain(cell: Cell | str) -> str | int:
    text = cell.text if isinstance(cell, Cell) else cell
    return int(text) if text.isdigit() else text.strip("`")


def _log_artifacts(run: Any, record: Record) -> None:
    """The small networks with their plan, and the dense weights they were made from, where the run trained them."""
    stem = _artifact_name(f"{record.model}-{record.data}" if record.data else record.model)
    folder, metadata = record.folder, {"better": better_stage(record.metrics), "rule": record.rule}
    dense = _dense_weights(record)
    if dense is not None:
        source = wandb.Artifact(f"{stem}-dense", type="model", metadata={"sha256": _digest(dense)})
        source.add_file(str(dense), policy="immutable")
        # Offline nothing can be used, only logged: the small network's metadata names it all the same.
        run.log_artifact(source) if run.offline else run.use_artifact(source)
        metadata |= {"made_from": f"{stem}-dense", "made_from_sha256": _digest(dense)}
    small = wandb.Artifact(f"{stem}-pruned", type="model", metadata=metadata | _numbers(record.metrics))
    weights = (f"{stage}.safetensors" for stage in SMALL)
    for path in (folder / name for name in (*_PAGES, *weights)):
        if path.is_file():
            small.add_file(str(path), policy="immutable")
    run.log_artifact(small)


def _dense_weights(record: Record) -> Path | None:
    """Where the dense weights lie that the run trained, or found trained by an earlier one."""
    name = record.metrics.get("cache/dense")
    cache = (record.facts.get("config") or {}).get("cache_dir")
    path = Path(cache or record.folder) / str(name)
    return path if name and path.is_file() else None


def _numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if name.split("/")[0] in STAGES}


def _artifact_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
