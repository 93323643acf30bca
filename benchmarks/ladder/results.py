"""What has been measured already?  One JSON line for every finished cell, so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import snp

__all__ = ["Results", "code_version"]

Key = Mapping[str, Any]


def code_version() -> str:
    """Eight digits that change with any source file of the library."""
    folder = Path(snp.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:8]


class Results:
    """Cells by what they are: a mapping of plain values to a mapping of numbers.

    Args:
        path: a JSON-lines file, made when the first cell is finished; several processes may append to it. None keeps
            results in memory only.

    Raises:
        ValueError: a line of the file is no cell. An unfinished last line, left by a killed run, is passed over.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._cells: dict[str, dict[str, Any]] = {}
        self._code = code_version()
        self.codes: set[str] = set()
        lines = path.read_text().split("\n") if path is not None and path.is_file() else []
        for number, line in enumerate(lines, start=1):
            if number == len(lines):  # what follows the last line break: nothing, or a line cut short
                break
            self._take(line, number)

    def _take(self, line: str, number: int) -> None:
        try:
            cell = json.loads(line)
            self._cells[_text(cell["key"])] = cell["values"]
            self.codes.add(cell["code"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{self._path}, line {number}, is no finished cell: {line[:60]!r}") from error

    def find(self, key: Key) -> dict[str, Any] | None:
        """Values of a finished cell."""
        return self._cells.get(_text(key))

    def measure(self, key: Key, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Values of a cell, measured now unless they are there."""
        found = self.find(key)
        if found is not None:
            return found
        values = work()
        self._cells[_text(key)] = values
        self.codes.add(self._code)
        if self._path is not None:
            self._append(json.dumps({"key": dict(key), "values": values, "code": self._code}) + "\n")
        return values

    def _append(self, line: str) -> None:
        assert self._path is not None
        if self._path.is_file() and (before := self._path.read_bytes()) and not before.endswith(b"\n"):
            # A line cut short would swallow the next one.
            self._path.write_bytes(before[: before.rfind(b"\n") + 1])
        with self._path.open("a") as file:
            file.write(line)


def _text(key: Key) -> str:
    return json.dumps(key, sort_keys=True)
