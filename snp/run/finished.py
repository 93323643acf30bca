"""Which stages of this run are done?  What they left is used again, where it is whole and of the very same facts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from snp.run.folder import RunFolder, log

__all__ = ["Finished", "mark_of"]


def mark_of(*facts: object) -> str:
    """Hash of facts with a stable text, hexadecimal."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


class Finished:
    """``stages.json`` of a run folder: per stage its mark, hashes of its files, and the numbers recorded meanwhile.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        try:
            self._stages: dict[str, Any] = json.loads((folder.path / "stages.json").read_text())
        except (OSError, ValueError):
            self._stages = {}

    def found(self, stage: str, mark: str) -> bool:
        """Was this very stage finished before, and are its files whole?  Then its numbers are recorded again."""
        entry = self._stages.get(stage)
        if not isinstance(entry, dict) or entry.get("mark") != mark:
            return False
        if any(_digest(self._folder.path / name) != digest for name, digest in entry["files"].items()):
            return False
        log(f"{stage}: what an earlier start of this run left is used")
        self._folder.record(entry["numbers"])
        self._folder.recorded_since()
        return True

    @rank_zero_only
    def note(self, stage: str, mark: str, files: Sequence[str] = ()) -> None:
        """The stage is done; numbers recorded since the last one belong to it."""
        digests = {name: _digest(self._folder.path / name) for name in files}
        self._stages[stage] = {"mark": mark, "files": digests, "numbers": self._folder.recorded_since()}
        self._write()

    @rank_zero_only
    def renew(self, stage: str) -> None:
        """Files of a stage that was noted were written again, with more in them."""
        entry = self._stages[stage]
        entry["files"] = {name: _digest(self._folder.path / name) for name in entry["files"]}
        self._write()

    def _write(self) -> None:
        self._folder.replace("stages.json", json.dumps(self._stages, indent=1) + "\n")


def _digest(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
