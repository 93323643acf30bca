"""Where do moments that are measured block by block lie, and until when?  Also those of a run that was killed go."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from snp.core.gram import Moments
from snp.measure.samples import Samples
from snp.measure.streamed import stream_moments
from snp.run.calibrate import CalibrationSettings
from snp.run.folder import is_first_process
from snp.run.processes import OVER_PROCESSES
from snp.surgery.subject import Subject

__all__ = ["StreamedMoments"]

_PREFIX = "moments-"


class StreamedMoments:
    """Moments in a folder of their own inside a run's.

    Args:
        folder: the run's, into which nobody else writes meanwhile.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._on_disk: TemporaryDirectory[str] | None = None
        if is_first_process():
            for path in folder.glob(f"{_PREFIX}*"):
                if path.is_dir() and re.fullmatch(rf"{_PREFIX}[a-z0-9_]{{8}}", path.name):  # as Python calls them
                    shutil.rmtree(path)

    def measured(
        self, subject: Subject, samples: Samples, settings: CalibrationSettings
    ) -> tuple[Mapping[str, Moments], dict[str, Any]]:
        """Moments of the calibration samples, on the first process, and facts about how they were measured.

        Args:
            subject: the dense network.
            samples: the share of this process.
            settings: how they are measured.
        """
        folder = None
        if is_first_process():
            self._on_disk = TemporaryDirectory(prefix=_PREFIX, dir=self._folder)
            folder = Path(self._on_disk.name)
        started, model = time.perf_counter(), subject.model
        inputs = [batch.beside(model) for batch in samples.batches]
        readers, visits = subject.readers, subject.visits
        found = stream_moments(model, inputs, readers, folder, settings.product_dtype, OVER_PROCESSES, visits)
        seconds, num_samples = time.perf_counter() - started, int(OVER_PROCESSES.number(samples.num_samples))
        # There is no pass without measuring to compare with.
        return found, {"calibrate_s": seconds, "forward_s": None, "samples": num_samples, "reused": False}

    def forget(self) -> None:
        """Remove what lies on disk, once nobody reads it any more."""
        if self._on_disk is not None:
            self._on_disk.cleanup()
