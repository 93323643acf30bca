"""In which folders are runs?"""

from __future__ import annotations

import re
from pathlib import Path

from snp.report.record import is_run

__all__ = ["run_folders"]


def run_folders(path: Path) -> list[Path]:
    """The folder itself, or those of the runs that a sweep left in it, by their numbers.

    Raises:
        FileNotFoundError: there is no run.
    """
    if is_run(path):
        return [path]
    names = [f"{depth}/{name}" for depth in ("*", "*/*") for name in ("metrics.json", "run.json")]
    found = {file.parent for name in names for file in path.glob(name)}
    if not found:
        raise FileNotFoundError(f"{path} is no run folder, and holds none: there is no metrics.json in it")
    return sorted(found, key=lambda folder: [_natural(part) for part in folder.parts])


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Numbers in a name count as numbers: 2_zca stands before 10_zca."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]
