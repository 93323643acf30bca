"""What was a folder's network cut from, and are its weights still those of then?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from snp.export.folder import ExportFolder, one_tensor
from snp.models import build, huggingface
from snp.models.sources import checkpoint as source
from snp.models.sources.weights import read_weights, state_hash
from snp.plan.plan import PruningPlan
from snp.report.record import read_json

__all__ = ["Dense", "dense_network"]


@dataclass(frozen=True, eq=False)
class Dense:
    """The network that another was cut from.

    Attributes:
        network: from one tensor to outputs, in evaluation mode.
        has_weights: its weights are those that it was cut from; else they are random, which is enough for times.
        doubt: one sentence for the user where a file that should hold them does not any more, else empty.
    """

    network: nn.Module
    has_weights: bool
    doubt: str = ""


def dense_network(folder: ExportFolder) -> Dense | None:
    """What the network of a folder was cut from; None where nobody noted how that was built.

    Weights that were trained in the run, or given to it as a file, are found again.

    Raises:
        ValueError: those that were trained are damaged.
    """
    recipe = PruningPlan.load(folder.path / "plan.json").recipe
    if recipe is None:
        return None
    if (trained := _trained(folder)) is not None:
        dense = build(**recipe).eval()
        read_weights(dense, trained)
        return Dense(one_tensor(dense), has_weights=True)
    asked = folder.config.get("model") or {}
    path = folder.from_there(asked.get("checkpoint"))
    given = _given(path, asked, recipe)
    if given is None:
        return Dense(one_tensor(build(**recipe)), has_weights=False)
    noted = read_json(folder.path / "run.json").get("given_weights")
    if given.network is None or (noted and noted != state_hash(given.network)):
        said = f"model.checkpoint={path} is not what it was when the run was made{given.why}"
        return Dense(one_tensor(build(**recipe)), False, f"The dense network was not scored: {said}.")
    return Dense(one_tensor(given.network), has_weights=True)


@dataclass(frozen=True, eq=False)
class _Given:
    """What a checkpoint gives today: a network, or why it gives none."""

    network: nn.Module | None
    why: str = ""


def _trained(folder: ExportFolder) -> Path | None:
    """The file of dense weights that the run trained, if it is there."""
    name = read_json(folder.path / "metrics.json").get("cache/dense")
    path = Path(folder.from_there(folder.config.get("cache_dir")) or folder.path) / str(name)
    return path if name and path.is_file() else None


def _given(path: Any, asked: Mapping[str, Any], recipe: Mapping[str, Any]) -> _Given | None:
    """The dense network with the weights that lie at the run's checkpoint today; None where nothing lies there."""
    is_folder = recipe["family"] == "huggingface"
    there = Path(path).expanduser() if path else None
    if there is None or not ((there / "config.json") if is_folder else there).is_file():
        return None
    try:
        if is_folder:
            return _Given(huggingface.load(there, dtype=asked.get("dtype", "float32"))[0])
        network = build(**recipe).eval()
        source.load(network, there, recipe["arguments"]["num_classes"])
    except ValueError as error:  # a file of another network
        return _Given(None, f" ({error})")
    return _Given(network)
