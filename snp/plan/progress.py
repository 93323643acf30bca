"""How far is a prune, and where did its time go?"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tqdm.auto import tqdm

__all__ = ["Progress", "StageTime"]


@dataclass(frozen=True)
class StageTime:
    """What a stage took.

    Attributes:
        seconds: by the clock on the wall.
        processor_seconds: of all threads of this process, whatever else runs on the machine.
    """

    seconds: float = 0.0
    processor_seconds: float = 0.0

    def __add__(self, other: StageTime) -> StageTime:
        return StageTime(self.seconds + other.seconds, self.processor_seconds + other.processor_seconds)

    def __sub__(self, other: StageTime) -> StageTime:
        return StageTime(self.seconds - other.seconds, self.processor_seconds - other.processor_seconds)


def _now() -> StageTime:
    return StageTime(time.perf_counter(), time.process_time())


class Progress:
    """Stages, one after the other or one inside another, each with a bar and the time that it took for itself.

    Args:
        shows: draw bars with the time left, on a terminal or in a notebook; nothing is drawn into files.

    Attributes:
        times: name of a stage -> what it took, without stages inside it; in the order in which they began.
    """

    def __init__(self, *, shows: bool = False) -> None:
        in_notebook = "ipykernel" in sys.modules
        self._disable = (None if not in_notebook else False) if shows else True
        self._bars: list[tqdm[None]] = []
        self._inside: list[StageTime] = []  # of stages within each open one
        self.times: dict[str, StageTime] = {}

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[None]:
        """Everything inside belongs to a stage of so many steps, where that is known."""
        self.times.setdefault(name, StageTime())
        began = _now()
        self._inside.append(StageTime())
        self._bars.append(tqdm(desc=name, total=total, disable=self._disable, leave=False, position=len(self._bars)))
        try:
            yield
        finally:
            self._bars.pop().close()
            spent = _now() - began
            self.times[name] += spent - self._inside.pop()
            if self._inside:
                self._inside[-1] += spent

    def step(self) -> None:
        """One step of the innermost stage is done."""
        if self._bars:
            self._bars[-1].update()
