"""Where do moments that are measured block by block lie, and until when?"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from snp.measure.samples import Samples
from snp.measure.streamed import MomentsOnDisk, stream_moments
from snp.run.calibrate import CalibrationSettings
from snp.surgery.subject import Subject

__all__ = ["StreamedMoments"]


class StreamedMoments:
    """Moments in a folder of their own inside a run's.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._on_disk: TemporaryDirectory[str] | None = None

    def measured(
        self, subject: Subject, samples: Samples, settings: CalibrationSettings, device: torch.device
    ) -> tuple[MomentsOnDisk, dict[str, Any]]:
        """Moments of the calibration samples, and facts about how they were measured."""
        subject.to(device)
        self._on_disk = TemporaryDirectory(prefix="moments-", dir=self._folder)
        started = time.perf_counter()
        model, folder = subject.model, Path(self._on_disk.name)
        inputs = [batch.beside(model) for batch in samples.batches]
        found = stream_moments(model, inputs, subject.readers, folder, settings.product_dtype)
        subject.to("cpu")
        seconds = time.perf_counter() - started
        # There is no pass without measuring to compare with.
        return found, {"calibrate_s": seconds, "forward_s": None, "samples": samples.num_samples, "reused": False}

    def forget(self) -> None:
        """Remove what lies on disk, once nobody reads it any more."""
        if self._on_disk is not None:
            self._on_disk.cleanup()
