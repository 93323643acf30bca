"""How do samples of any kind reach training, test and calibration, on any number of processes?

The calibration samples are a fixed choice from the training part, seen as in evaluation, in a fixed order; when there
are several processes, evaluation and calibration show every sample to exactly one of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.distributed as dist
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Subset

from snp.data.sampling import ExactlyOnceSampler
from snp.data.splits import subset

__all__ = ["Batches", "Part", "SampleData", "Samples", "require_at_least"]

Part = Literal["train", "test"]
Samples = Dataset[Any]
Batches = DataLoader[Any]

# Calibration samples make at least so many batches, however few they are, so that several processes have some each.
_CALIBRATION_BATCHES = 8


class SampleData(LightningDataModule):
    """Pairs of inputs and labels in a training and a test part; subclasses say what they are.

    Order of calls: `requirements` may be read at once; then `configure`, then `setup`, then the loaders. All loaders
    yield (inputs (N, ...), int64 labels (N, ...)).

    Args:
        name: how reports call the data set.
        batch_size: samples per batch and process.
        num_workers: processes that load samples, 0 for none.

    Attributes:
        holds: "images" or "text".
        format: how the network wants its inputs, once configured.

    Raises:
        ValueError: a number that makes no sense.
    """

    holds: str
    format: Any = None

    def __init__(self, *, name: str, batch_size: int, num_workers: int) -> None:
        super().__init__()
        require_at_least(batch_size=(batch_size, 1), num_workers=(num_workers, 0))
        self.name: str = name
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.train_set: Any = None
        self.test_set: Any = None

    @property
    @abstractmethod
    def requirements(self) -> Mapping[str, Any]:
        """What a model must know of the data to be built: keywords of `prepare` of its spec."""

    @abstractmethod
    def configure(self, *args: Any, **format: Any) -> None:
        """Say which inputs the network wants; call it before `setup`."""

    @abstractmethod
    def seen(self, part: Part, *, training: bool) -> Samples:
        """A part as the network sees it, a map-style data set of (inputs, labels); random only when `training`."""

    def setup(self, stage: str | None = None) -> None:
        """Read what a stage needs ("fit", "validate", "test"; None: all) and was not read before."""
        if stage in (None, "fit") and self.train_set is None:
            self.train_set = self.seen("train", training=True)
        if self.test_set is None:
            self.test_set = self.seen("test", training=False)

    def train_dataloader(self) -> Batches:
        """Training samples, shuffled; a small last batch is left out if there is another."""
        self.setup("fit")
        drop_last = len(self.train_set) // _num_processes() > self.batch_size
        return self._loader(self.train_set, shuffle=True, drop_last=drop_last)

    def val_dataloader(self) -> Batches:
        """Test samples in order: there is no third part, and nothing is chosen by the validation score."""
        return self.test_dataloader()

    def test_dataloader(self) -> Batches:
        """Test samples in order, as in evaluation."""
        self.setup("test")
        return self._exactly_once_loader(self.test_set)

    def calibration_dataloader(self, num_samples: int, seed: int, *, whole: bool = False) -> Batches:
        """A fixed choice of training samples as in evaluation, in fixed order.

        Which samples share a batch does not depend on the number of processes, up to eight of them: each sees whole
        batches, and activations are the same to the last bit however many there are.

        Args:
            num_samples: how many, over all processes.
            seed: same seed, same samples in the same order.
            whole: all of them on this process, instead of its share.

        Raises:
            ValueError: the training part has fewer samples.
        """
        train_set: Any = self.seen("train", training=False)
        chosen = Subset(train_set, subset(len(train_set), num_samples, seed))
        size = min(self.batch_size, max(1, num_samples // max(_CALIBRATION_BATCHES, _num_processes())))
        is_shared = _num_processes() > 1 and not whole
        return self._loader(chosen, batch_size=size, sampler=ExactlyOnceSampler(chosen, size) if is_shared else None)

    def _exactly_once_loader(self, dataset: Samples) -> Batches:
        return self._loader(dataset, sampler=ExactlyOnceSampler(dataset) if _num_processes() > 1 else None)

    def _loader(self, dataset: Samples, **arguments: Any) -> Batches:
        return DataLoader(
            dataset,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            **{"batch_size": self.batch_size, **arguments},
        )


def _num_processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def require_at_least(**numbers: tuple[int | None, int]) -> None:
    """Check settings against their smallest value; None stands for "not given".

    Raises:
        ValueError: one of them is smaller.
    """
    for key, (value, least) in numbers.items():
        if value is not None and value < least:
            raise ValueError(f"data.{key}={value}: choose at least {least}")
