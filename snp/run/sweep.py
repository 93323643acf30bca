"""What becomes of a sweep when one of its runs fails?  The others go on, the finished ones get their pages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from snp.run.errors import guarded, mistake, say

__all__ = ["Sweep"]


@dataclass
class Sweep:
    """What this process knows of the runs of a sweep.

    Attributes:
        questions: folder of a sweep in which a run has finished -> the question that it asks.
        failed: why -> names of the runs that failed for it.
        go_on: the command that goes on with those that failed; empty where a sweeper chooses others then.
        ended: why a sweeper started no more of them; empty where it started all.
    """

    questions: dict[str, str] = field(default_factory=dict)
    failed: dict[str, list[str]] = field(default_factory=dict)
    go_on: str = ""
    ended: str = ""

    def note(self, error: Exception, run: str) -> str | None:
        """A run has failed.

        Returns:
            The sentence for a user who made a mistake; None for an error of another kind.
        """
        self.note_why(_why(error), run)
        return mistake(error)

    def knows(self, error: Exception) -> bool:
        """Is it one that a run has failed with?"""
        return _why(error) in self.failed

    def note_why(self, why: str, run: str) -> None:
        """A run has failed for a reason that is a sentence already."""
        self.failed.setdefault(why, []).append(run)

    @contextmanager
    def concluded(self) -> Iterator[None]:
        """The pages of what has finished, then what has failed, with a status that is not 0."""
        try:
            yield
        except (Exception, SystemExit):
            if self.failed or self.questions:
                self._conclude("the finished")
            raise
        self._conclude("the finished" if self.failed else "all")
        if self.failed:
            sys.exit(2)

    def _conclude(self, which: str) -> None:
        try:
            for folder, asked in self.questions.items():
                guarded(_summarise)(folder, asked, which)
        finally:  # a page that cannot be written is no reason to hide it
            if self.failed:
                say(self._told())

    def _told(self) -> str:
        count = sum(map(len, self.failed.values()))
        lines = [f"{count} {'run' if count == 1 else 'runs'} of this sweep failed:"]
        lines += [f"  {'; '.join(runs)}: {why}" for why, runs in self.failed.items()]
        if self.ended:
            lines.append(self.ended)
        if self.go_on:
            lines.append(f"The same command takes what is finished as it is and goes on with the rest: {self.go_on}")
        return "\n".join(lines)


def _why(error: Exception) -> str:
    return mistake(error) or " ".join(f"{type(error).__name__}: {error}".split())


def _summarise(folder: str, asked: str, which: str) -> None:
    from snp.report.summary import write_summary

    page, sentences = write_summary(Path(folder), asked)
    print("\n".join([*(["", asked] if asked else []), *sentences, f"Summary of {which} runs: {page}"]), flush=True)
