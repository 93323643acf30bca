"""How do activations become moments, on any number of processes?

``Trainer.predict`` shows every sample to exactly one process; each sums its own moments, and the sums are added up
once at the end.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic.dataclasses import dataclass
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from snp.core.gram import Moments
from snp.core.options import STRICT, named, option
from snp.graph.batches import Batch
from snp.measure.moments import MomentCollector
from snp.measure.readers import Reader
from snp.measure.views import with_mirrored
from snp.models.sources.weights import read_metadata, read_tensors, write_tensors
from snp.run.processes import OVER_PROCESSES

__all__ = ["CalibrationCallback", "CalibrationSettings", "ForwardPass", "read_moments", "write_moments"]


@named(lambda given: "calibration")
@dataclass(frozen=True, config=STRICT)
class CalibrationSettings:
    """How much is measured, and how precisely; sums over batches are float64 in any case."""

    samples: int = option(1024, "from the training part, labels unused", ge=1)
    products: Literal["float64", "float32"] = option(
        "float64", "precision within a batch: repeats to 1e-10; or float32, for devices on which float64 is slow"
    )
    streamed: bool = option(
        False, "block by block with moments on disk, for large transformers; feed-forward units only, no trials"
    )

    @property
    def product_dtype(self) -> torch.dtype:
        """Precision of the products."""
        return torch.float64 if self.products == "float64" else torch.float32


class ForwardPass(LightningModule):
    """Runs the network on batches, of images mirrored ones too where that is asked for, and keeps nothing."""

    def __init__(self, model: nn.Module, *, mirrored: bool = False) -> None:
        super().__init__()
        self.model = model
        self._mirrored = mirrored

    def predict_step(self, batch: Any, batch_index: int) -> None:
        """One forward pass; callbacks look on."""
        inputs = Batch.of(batch).beside(self.model)
        (with_mirrored(inputs) if self._mirrored else inputs).call(self.model)


class CalibrationCallback(Callback):
    """Collects moments during ``Trainer.predict`` and adds them up over all processes.

    Attributes:
        moments: weight name -> moments of all samples on all processes, on the CPU; empty until the end.
        samples: number of samples seen on all processes.
        seconds: from the first batch to the last, on this process.
    """

    def __init__(self, readers: Mapping[str, Reader], settings: CalibrationSettings) -> None:
        self._readers = readers
        self._dtype = settings.product_dtype
        self._collector: MomentCollector | None = None
        self._started = 0.0
        self.moments: dict[str, Moments] = {}
        self.samples = 0
        self.seconds = 0.0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hook the readers."""
        assert isinstance(pl_module, ForwardPass)
        self._collector = MomentCollector(pl_module.model, self._readers, self._dtype)
        self._collector.__enter__()
        self.samples = 0
        self._started = time.perf_counter()

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *rest: Any
    ) -> None:
        """Count the samples."""
        self.samples += Batch.of(batch).size

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unhook, and sum over processes."""
        assert self._collector is not None
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self._started
        self._collector.__exit__(None, None, None)
        found = self._collector.moments
        self.moments = {name: OVER_PROCESSES.moments(moments).cpu() for name, moments in found.items()}
        self.samples = int(OVER_PROCESSES.number(self.samples))
        self._collector = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no hooks behind."""
        if self._collector is not None:
            self._collector.__exit__(None, None, None)


def write_moments(moments: Mapping[str, Moments], path: Path, metadata: Mapping[str, str]) -> None:
    """Write ``moments.safetensors``: per weight name ``/second``, ``/first`` and ``/count``."""
    tensors: dict[str, Tensor] = {}
    for name, entry in moments.items():
        tensors[f"{name}/second"], tensors[f"{name}/first"] = entry.second, entry.first
        tensors[f"{name}/count"] = torch.tensor(entry.count)
    write_tensors(tensors, path, metadata)


def read_moments(path: Path, fingerprint: str) -> tuple[dict[str, Moments], dict[str, str]] | None:
    """Moments and metadata of a file if it is there and its metadata has that ``fingerprint``, else None."""
    metadata = read_metadata(path)
    if metadata.get("fingerprint") != fingerprint:
        return None
    try:
        tensors = read_tensors(path)
    except ValueError:  # damaged: they are measured again
        return None
    names = [name.removesuffix("/count") for name in tensors if name.endswith("/count")]
    moments = {
        name: Moments(tensors[f"{name}/second"], tensors[f"{name}/first"], int(tensors[f"{name}/count"]))
        for name in names
    }
    return moments, metadata
