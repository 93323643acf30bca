"""How do samples of any kind reach training, validation, test and calibration, on any number of processes?

A few training samples are set apart for validation, unless the data have a part of their own for it; what chooses
between runs or epochs looks there, never at the test part. The calibration samples are a fixed choice from the rest of
the training part, as in evaluation, in a fixed order. Of several processes exactly one evaluates or calibrates on each.
"""

from __future__ import annotations

import contextlib
import os
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Subset

from snp.data.distinct import distinct
from snp.data.refusals import require_at_least, require_share
from snp.data.sampling import EpochShuffle, ExactlyOnceSampler, num_processes
from snp.data.splits import set_apart, subset

__all__ = ["Batches", "Part", "SampleData", "Samples"]

Part = Literal["train", "val", "test"]
Samples = Dataset[Any]
Batches = DataLoader[Any]

# Calibration samples make at least so many batches, however few they are, so that several processes have some each.
_CALIBRATION_BATCHES = 8


class SampleData(LightningDataModule):
    """Pairs of inputs and labels in training, validation and test parts; subclasses say what they are.

    Order of calls: `requirements` may be read at once; then `configure`, then `setup`, then the loaders. All loaders
    yield (inputs (N, ...), int64 labels (N, ...)).

    Args:
        name: how reports call the data set.
        batch_size: samples per batch and process.
        num_workers: processes that load samples, 0 for none; never more than the cores this process may use.
        val_fraction: share of the training samples that is set apart for validation, in [0, 1), at most 5,000 samples;
            always the same ones. Without effect where the data have a validation part of their own.

    Attributes:
        holds: "images" or "text".
        format: how the network wants its inputs, once configured.

    Raises:
        ValueError: a number that makes no sense.
    """

    holds: str
    format: Any = None

    def __init__(self, *, name: str, batch_size: int, num_workers: int, val_fraction: float = 0.1) -> None:
        super().__init__()
        require_at_least(may_be_none=False, batch_size=(batch_size, 1), num_workers=(num_workers, 0))
        require_share("val_fraction", val_fraction)
        self.name: str = name
        self.batch_size = batch_size
        self.num_workers = min(num_workers, _num_cores())  # more of them wait for each other
        self.val_fraction = val_fraction
        self.train_set: Any = None
        self.test_set: Any = None
        self._distinct: dict[object, list[int]] = {}

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

    @property
    def has_validation_part(self) -> bool:
        """Do the data come with a validation part, beside training and test?"""
        return False

    def setup(self, stage: str | None = None) -> None:
        """Read what a stage needs ("fit", "validate", "test"; None: all) and was not read before."""
        if stage in (None, "fit") and self.train_set is None:
            self.train_set = self._training(as_seen_in_training=True)
        if self.test_set is None:
            self.test_set = self.seen("test", training=False)

    def look_at_ends(self) -> None:
        """Look at a few samples of every part before any work; of images, where labels may be wrong."""

    def _training(self, *, as_seen_in_training: bool) -> Samples:
        """The training samples that are not set apart for validation."""
        whole: Any = self.seen("train", training=as_seen_in_training)
        kept, apart = self._divided(len(whole))
        return Subset(whole, kept) if apart else whole

    def _divided(self, num_samples: int) -> tuple[list[int], list[int]]:
        return set_apart(num_samples, 0.0 if self.has_validation_part else self.val_fraction)

    def counts(self) -> dict[str, int]:
        """Number of samples of every part that is there: "train" (without those set apart), "val" and "test"."""
        found = {}
        for part in get_args(Part):
            if part == "val" and not self.has_validation_part:
                continue
            with contextlib.suppress(ValueError):  # a part that this data set does not have
                samples: Any = self.seen(part, training=False)
                found[part] = len(samples)
        if "train" in found and not self.has_validation_part:
            found["train"], found["val"] = map(len, self._divided(found["train"]))
        return {part: count for part, count in found.items() if count}

    def train_dataloader(self) -> Batches:
        """Training samples, shuffled by seed and epoch; a small last batch is left out if there is another."""
        self.setup("fit")
        each = -(-len(self.train_set) // num_processes())  # the sampler repeats a few, so that all have as many
        drop_last = each > self.batch_size
        # Set where a run is seeded; a run that goes on begins with the epoch that was interrupted.
        loop = getattr(self.trainer, "fit_loop", None)
        epoch = 0 if loop is None else loop.epoch_progress.current.processed
        sampler = EpochShuffle(self.train_set, int(os.environ.get("PL_GLOBAL_SEED", 0)), epoch)
        # Loading processes that lived on would carry the state of their random generators into the next epoch.
        return self._loader(
            self.train_set, sampler=sampler, generator=sampler.generator, drop_last=drop_last, persistent_workers=False
        )

    def val_dataloader(self) -> Any:
        """Samples for validation in order, as in evaluation; an empty list where there are none."""
        if self.has_validation_part:
            return self._exactly_once_loader(self.seen("val", training=False))
        whole: Any = self.seen("train", training=False)
        apart = self._divided(len(whole))[1]
        return self._exactly_once_loader(Subset(whole, apart)) if apart else []

    def test_dataloader(self) -> Batches:
        """Test samples in order, as in evaluation."""
        self.setup("test")
        return self._exactly_once_loader(self.test_set)

    def calibration_dataloader(self, num_samples: int, seed: int, *, whole: bool = False) -> Batches:
        """A fixed choice of training samples as in evaluation, in fixed order; none of those set apart for validation.

        Those equal to an earlier one, or nearly, are left out. Who shares a batch does not depend on the number of
        processes, up to eight: each sees whole batches, and activations are the same to the last bit.

        Args:
            num_samples: how many are asked for, over all processes; all there are where that is more.
            seed: same seed, same samples in the same order.
            whole: all of them on this process, instead of its share.
        """
        chosen = self._chosen(num_samples, seed)
        size = min(self.batch_size, max(1, len(chosen) // max(_CALIBRATION_BATCHES, num_processes())))
        sampler = ExactlyOnceSampler(chosen, size) if num_processes() > 1 and not whole else None
        return self._loader(chosen, batch_size=size, sampler=sampler)

    def num_drawn(self, num_samples: int) -> int:
        """How many calibration samples are drawn where so many are asked for: no more than there are."""
        return min(num_samples, len(self._training(as_seen_in_training=False)))  # type: ignore[arg-type]

    def num_repeats(self, num_samples: int, seed: int) -> int:
        """How many of the calibration samples drawn are left out."""
        return self.num_drawn(num_samples) - len(self._chosen(num_samples, seed))

    def _chosen(self, num_samples: int, seed: int) -> Any:
        train_set: Any = self._training(as_seen_in_training=False)
        num_drawn = self.num_drawn(num_samples)
        drawn, key = subset(len(train_set), num_drawn, seed), (num_drawn, seed, repr(self.format))
        if key not in self._distinct:
            self._distinct[key] = distinct(self._loader(Subset(train_set, drawn), persistent_workers=False))
        return Subset(train_set, [drawn[number] for number in self._distinct[key]])

    def _exactly_once_loader(self, dataset: Samples) -> Batches:
        return self._loader(dataset, sampler=ExactlyOnceSampler(dataset) if num_processes() > 1 else None)

    def _loader(self, dataset: Samples, **arguments: Any) -> Batches:
        common: dict[str, Any] = {"batch_size": self.batch_size, "pin_memory": torch.cuda.is_available()}
        common |= {"num_workers": self.num_workers, "persistent_workers": self.num_workers > 0}
        return DataLoader(dataset, **common | arguments)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
