"""In which folders are runs?"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from snp.report.record import is_run

__all__ = ["folders_once", "run_folders"]


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


def folders_once(paths: Iterable[str | Path]) -> tuple[list[Path], list[Path]]:
    """Folders of the runs that some paths hold, each once, and those that were named more than once.

    One run twice would look like two seeds that agree, whatever paths lead to it.

    Raises:
        FileNotFoundError: a path holds no run.
    """
    named: dict[Path, list[Path]] = {}
    for path in paths:
        for folder in run_folders(Path(path)):
            named.setdefault(folder.resolve(), []).append(folder)
    return [found[0] for found in named.values()], [found[0] for found in named.values() if len(found) > 1]


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Numbers in a name count as numbers: 2_zca stands before 10_zca."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]
