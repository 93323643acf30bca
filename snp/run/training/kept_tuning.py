"""From where does a tuning go on that was interrupted?  From ``last.safetensors``, written once a minute at most."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from snp.fit.tuning.state import TuningState
from snp.models.sources.weights import read_metadata, read_tensors, write_tensors
from snp.run.folder import log

__all__ = ["KeptTuning"]

# Epochs of a small network take less than a second, and the state of a large one is several times its weights.
_SECONDS = 60.0


class KeptTuning:
    """The state of a tuning, a :class:`snp.fit.tuning.state.Keeper`.

    Args:
        folder: of this very tuning alone.
        seconds: from one time that it is written to the next.
    """

    def __init__(self, folder: Path, seconds: float = _SECONDS) -> None:
        self._path, self._seconds = folder / "last.safetensors", seconds
        self._written = time.monotonic()

    def last(self) -> TuningState | None:
        """What an earlier start left; None where it left nothing, or no whole file."""
        if not self._path.is_file():
            return None
        try:
            tensors = read_tensors(self._path)
        except ValueError as error:
            log(f"{error}: tuning begins anew")
            return None
        log(f"tuning goes on from {self._path}")
        return TuningState(tensors, json.loads(read_metadata(self._path)["numbers"]))

    def offer(self, state: Callable[[], TuningState]) -> None:
        """Write it, if it is time."""
        if time.monotonic() - self._written < self._seconds:
            return
        found = state()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(found.tensors, self._path, {"numbers": json.dumps(found.numbers)})
        self._written = time.monotonic()
