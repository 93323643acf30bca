"""Which commands do README and the pages of docs print?  Those in blocks, and those in the running text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.command_line import ROOT

__all__ = ["PAGES", "Documented", "commands_of", "documented"]

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

_PROGRAMS = r"(?:[A-Z_]+=\S+ )*(?:(?:python|snp|pytest|coverage|pip|wandb|torchrun|srun|sbatch) \S|\.ci/run\b)"
_COMMAND = re.compile(rf"^{_PROGRAMS}")
_SCRIPT = re.compile(r"^(\w+\.py) --")
_SPAN = re.compile(r"`([^`]+)`")
# What stands behind a command for the reader.
_REMARK = re.compile(r"\s+#\s.*$|\s{2,}\(.*\)$")


@dataclass(frozen=True)
class Documented:
    """A command and where it is printed first."""

    text: str
    page: str
    line: int

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def documented() -> list[Documented]:
    """Every command that is printed, once."""
    found: dict[str, Documented] = {}
    for page in PAGES:
        for line, text in commands_of(page):
            found.setdefault(text, Documented(text, page.name, line))
    return list(found.values())


def commands_of(page: Path) -> Iterator[tuple[int, str]]:
    """Number of the line and text of every command of a page; parts joined by ``&&`` are commands of their own."""
    language, held = None, ""
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        if line.startswith("```"):
            language = None if language is not None else line[3:].strip()
            continue
        if language == "python":
            continue
        is_block = language is not None or line.startswith("    ")
        for piece in [line.strip()] if is_block else _SPAN.findall(line):
            whole = held + piece.removeprefix("command:").strip()
            if is_block and whole.endswith("\\"):
                held = whole[:-1]
                continue
            held = ""
            for part in _REMARK.sub("", whole).split(" && "):
                command = _SCRIPT.sub(r"python benchmarks/\1 --", " ".join(part.split()))
                if _COMMAND.match(command):
                    yield number, command
