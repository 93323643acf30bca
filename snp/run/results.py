"""Which files of a run's folder are made from its networks, and go when these do?"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only

__all__ = ["EXPORT_FOLDER", "RESULTS", "begin_stage", "drop", "forget_exports"]

EXPORT_FOLDER = "export"
_EXPORTED = ("model.pt2", "model.onnx", "model.onnx.data", "model.int8.onnx", "scores.json")
_EXPORTS = tuple(f"{EXPORT_FOLDER}/{name}" for name in _EXPORTED)
_PAGES = ("report.md", "report.html", "model_card.md", "figures/*")
_TABLES = ("variance.csv", "damage.csv", "layers.csv")
_WEIGHTS = ("pruned.safetensors", "tuned.safetensors", "finetuned.safetensors")
# What is made from a plan, and does not fit another one.
RESULTS = (*_WEIGHTS, *_TABLES, *_PAGES, *_EXPORTS)


@rank_zero_only
def drop(folder: Path, *stages: str) -> None:
    """Remove the weights of stages that were not asked for, and what was made of them; nothing where there are none."""
    weights = [f"{stage}.safetensors" for stage in stages if (folder / f"{stage}.safetensors").exists()]
    if weights:
        _remove(folder, (*weights, *_PAGES, *_EXPORTS))


@rank_zero_only
def begin_stage(folder: Path, *stages: str) -> None:
    """Remove the weights that stages left with other settings, before they begin, and the pages that tell of them."""
    drop(folder, *stages)
    _remove(folder, _PAGES)


def forget_exports(folder: Path) -> list[str]:
    """Remove what an earlier export left in a folder: files of two networks do not stand side by side.

    Returns:
        Names of the files.
    """
    return _remove(folder, _EXPORTED)


def _remove(folder: Path, patterns: Iterable[str]) -> list[str]:
    found = [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
    for path in found:
        path.unlink()
    return [path.name for path in found]
