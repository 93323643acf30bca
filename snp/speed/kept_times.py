"""Where are times kept that belong to a device and not to a run?  One JSON file per user, written as a whole."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from snp.core.files import write_whole

__all__ = ["add_times", "kept_times", "user_table"]

Times = Mapping[int, float]


def user_table() -> Path:
    """The file of multiples in the user's folder for what can be made again."""
    return Path(platformdirs.user_cache_path("snp")) / "multiples.json"


def kept_times(path: Path | None, place: str) -> dict[str, dict[int, float]]:
    """What was measured at a place before: layer in words -> multiple -> seconds.

    Args:
        path: of the file; where there is none, or it is damaged, nothing was measured. None: nothing is kept.
        place: device, precision and versions, in words.
    """
    try:
        found = json.loads(path.read_text()).get(place, {}) if path is not None and path.is_file() else {}
        return {text: _times(entry) for text, entry in found.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        logging.getLogger("snp").warning(f"{path} is damaged, layers are timed anew: {error}")
        return {}


def _times(entry: Mapping[str, float]) -> dict[int, float]:
    times = {int(multiple): float(seconds) for multiple, seconds in entry.items()}
    if 1 not in times or not all(0 < seconds < float("inf") for seconds in times.values()):
        raise ValueError(f"no times: {entry}")
    return times


def add_times(path: Path | None, place: str, times: Mapping[str, Times]) -> None:
    """Keep what was measured beside what the file holds by now; a folder that cannot be written to keeps nothing."""
    if path is None or not times:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = _whole(path)
        found[place] = {**kept_times(path, place), **times}
        write_whole(path, json.dumps(found, indent=1) + "\n", is_shared=True)
    except OSError as error:
        logging.getLogger("snp").warning(f"layers will be timed again: {error}")


def _whole(path: Path) -> dict[str, Mapping[str, object]]:
    """All places of the file; those of a damaged one are lost."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    is_whole = isinstance(found, dict) and all(isinstance(entry, dict) for entry in found.values())
    return found if is_whole else {}
