"""What has a run left in its folder?  Read once, for pages and comparisons; nothing is computed anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from snp.report.stages import SMALL, number
from snp.report.tables import read_rows

__all__ = ["Layer", "Record", "is_run", "read_json", "read_record"]

Curve = list[tuple[int, float]]

_FILES = ("metrics.json", "plan.json", "run.json")


@dataclass(frozen=True)
class Layer:
    """Shape and multiply-accumulates of a layer's weight, before and after."""

    dense_shape: str
    pruned_shape: str
    dense_macs: int
    pruned_macs: int

    @property
    def is_whole(self) -> bool:
        """Did the cut leave it alone?"""
        return self.dense_shape == self.pruned_shape


@dataclass(frozen=True)
class Record:
    """The files of a run folder; what is missing is empty.

    Attributes:
        folder: of the run.
        metrics: of `metrics.json`.
        plan: of `plan.json`.
        facts: of `run.json`.
        reached: how far a run got that made no small network; empty where there is one, and for a plan alone.
    """

    folder: Path
    metrics: Mapping[str, Any]
    plan: Mapping[str, Any]
    facts: Mapping[str, Any]
    reached: str = ""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What was asked of the prune, with everything automatic decided."""
        return self.plan.get("settings") or {}

    @property
    def seed(self) -> int | None:
        """The run's own, where it noted its options: the prune may have been given another one."""
        seed: int | None = (self.facts.get("config") or {}).get("seed", self.settings.get("seed"))
        return seed

    @property
    def groups(self) -> list[Mapping[str, Any]]:
        """The groups of the plan, in network order."""
        return list(self.plan.get("groups") or [])

    @property
    def target(self) -> tuple[str, float] | None:
        """What the prune was to meet: "macs", "params", "latency", "var" or "units", and the share."""
        found = self.settings.get("target") or {}
        return next(((name, float(value)) for name, value in found.items()), None)

    @property
    def rule(self) -> str:
        """Ordering and cut, the way users name them."""
        names = [str(self.settings.get(name)) for name in ("ordering", "cut") if self.settings.get(name)]
        planner = self.settings.get("planner", "snp")
        return " / ".join(names) if planner == "snp" else str(planner)

    @property
    def model(self) -> str:
        """How the run calls its network."""
        recipe = self.plan.get("recipe") or {}
        arguments = recipe.get("arguments") or {}
        kind = arguments.get("model_name") or (arguments.get("config") or {}).get("model_type") or recipe.get("family")
        return str(self.facts.get("model") or kind or "network")

    @property
    def data(self) -> str | None:
        """How the run calls its data."""
        return (self.facts.get("data") or {}).get("name")

    @property
    def reads_text(self) -> bool:
        """Is its network one of language?"""
        families = (self.plan.get("recipe") or {}).get("family"), (self.facts.get("data") or {}).get("holds")
        return families[0] == "huggingface" or families[1] == "text"

    @cached_property
    def variance(self) -> dict[str, Curve]:
        """Group -> share of variance held by the first k units, k = 1..U; empty where nothing was ordered by it."""
        return _curves(self.folder / "variance.csv", "rank", "cumulative_variance")

    @cached_property
    def damage(self) -> dict[str, Curve]:
        """Group -> predicted damage with the first k units kept, k = 0..U; empty where another rule decided."""
        return _curves(self.folder / "damage.csv", "num_kept", "damage")

    @cached_property
    def layers(self) -> dict[str, Layer]:
        """Name of every layer's weight -> its shapes and costs; empty for runs that did not note them."""
        rows = read_rows(
            self.folder / "layers.csv", ("weight", "dense_shape", "pruned_shape"), ("dense_macs", "pruned_macs")
        )
        return {
            row["weight"]: Layer(
                row["dense_shape"], row["pruned_shape"], int(row["dense_macs"]), int(row["pruned_macs"])
            )
            for row in rows
        }

    @cached_property
    def training(self) -> dict[str, list[tuple[float, float]]]:
        """Name of every logged curve -> (step, value), from the last training in the folder."""
        tables = sorted((self.folder / "training").glob("*/metrics.csv"), key=lambda path: path.stat().st_mtime)
        found: dict[str, list[tuple[float, float]]] = {}
        for row in read_rows(tables[-1], numbers=("step",)) if tables else []:
            for name, text in row.items():
                value = number({name: _float(text)}, name)
                if value is not None and name not in ("step", "epoch"):
                    found.setdefault(name, []).append((float(row["step"]), value))
        return found


def is_run(folder: Path) -> bool:
    """Is there anything to read?"""
    return any((folder / name).is_file() for name in _FILES)


def read_record(folder: str | Path) -> Record:
    """What a run folder holds.

    Raises:
        FileNotFoundError: the folder holds none of the three files.
        ValueError: one of the files cannot be read.
    """
    path = Path(folder)
    metrics, plan, facts = (read_json(path / name) for name in _FILES)
    if not metrics and not plan and not facts:
        raise FileNotFoundError(f"{path} holds neither metrics.json nor plan.json, so there is nothing to report.")
    # A run that stopped before measuring still knows the plan's own counts.
    counts = {
        f"{state}/{measure}": count
        for measure in ("macs", "params")
        for state, count in (plan.get(measure) or {}).items()
    }
    return Record(path, counts | metrics, plan, facts, _reached(metrics, plan, facts))


def _reached(metrics: Mapping[str, Any], plan: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    measured = {name.partition("/")[0] for name in metrics}
    if not measured.isdisjoint(SMALL) or not (metrics or facts):
        return ""
    return "the plan" if plan else "the dense network" if "dense" in measured else "its start"


def _curves(table: Path, place: str, value: str) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for row in read_rows(table, ("group",), (place, value)):
        curves.setdefault(row["group"], []).append((int(row[place]), float(row[value])))
    return {name: sorted(curve) for name, curve in curves.items()}


def _float(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or an empty one where the file is missing.

    Raises:
        ValueError: The file is not a JSON object.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); rerun the stage that writes it.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, found a {type(content).__name__}.")
    return content
