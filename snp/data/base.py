"""What does every image data set offer to the pipeline, whatever its samples are?

Training, test and calibration loaders. The calibration samples are a fixed choice from the training part, seen through
the evaluation transform, in a fixed order; when there are several processes, evaluation and calibration show every
sample to exactly one of them.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Subset

from snp.data.sampling import ExactlyOnceSampler
from snp.data.splits import subset

Part = Literal["train", "test"]
Transform = Callable[[Any], torch.Tensor]
Samples = Dataset[Any]
Batches = DataLoader[Any]


@dataclass(frozen=True)
class ImageFormat:
    """How images reach the network: size in pixels, statistics of [0, 1] channels, resizing, part kept by the crop."""

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_fraction: float


class TransformedSamples(Dataset[tuple[torch.Tensor, int]]):
    """Samples seen through a transform: items are (float32 image (3, H, W), int label)."""

    def __init__(self, samples: Samples, transform: Transform) -> None:
        self.samples = samples
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = self.samples[index]
        return self.transform(image), int(label)


class ImageData(LightningDataModule):
    """An image classification data set: subclasses say what `samples` there are and how to `transform` them.

    Order of calls: `num_classes`, `image_size` and `trains_from_scratch` may be read at once; then `configure`, then
    `setup`, then the loaders. All loaders yield (float32 images (N, 3, H, W), int64 labels (N,)).

    Args:
        name: how reports call the data set.
        batch_size: images per batch and process.
        num_workers: processes that load images, 0 for none.
        image_size: height and width in pixels, None for the network's own.

    Raises:
        ValueError: a size or number that makes no sense.
    """

    trains_from_scratch: bool = True

    def __init__(self, *, name: str, batch_size: int, num_workers: int, image_size: int | None) -> None:
        super().__init__()
        for key, value, least in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("image_size", 1 if image_size is None else image_size, 1),
        ):
            if value < least:
                raise ValueError(f"data.{key}={value}: choose at least {least}")
        self.name: str = name
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.image_size = image_size
        self.format: ImageFormat | None = None
        self.train_set: TransformedSamples | None = None
        self.test_set: TransformedSamples | None = None
        self._samples: dict[Part, Samples] = {}

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Number of classes; labels are 0 to num_classes - 1."""

    @abstractmethod
    def samples(self, part: Part) -> Samples:
        """The raw samples of a part, a map-style data set of (image, label); called once per part, after `configure`.

        Raises:
            ValueError: the data are not where the settings say, or not as they should be.
        """

    @abstractmethod
    def transform(self, image_format: ImageFormat, *, training: bool) -> Transform:
        """What turns a raw image into a float32 tensor (3, image_size, image_size); random only when `training`."""

    def configure(
        self, image_size: int, mean: Sequence[float], std: Sequence[float], interpolation: str, crop_fraction: float
    ) -> None:
        """Say which images the network wants; call it before `setup`. See `ImageFormat` for the arguments."""
        self.format = ImageFormat(image_size, tuple(mean), tuple(std), interpolation, crop_fraction)
        self.train_set = self.test_set = None
        self._samples = {}

    def setup(self, stage: str | None = None) -> None:
        """Read what a stage needs ("fit", "validate", "test"; None: all) and was not read before."""
        if stage in (None, "fit") and self.train_set is None:
            self.train_set = self._seen("train", training=True)
        if self.test_set is None:
            self.test_set = self._seen("test", training=False)

    def train_dataloader(self) -> Batches:
        """Training samples, shuffled, with training transforms; a small last batch is left out if there is another."""
        self.setup("fit")
        assert self.train_set is not None
        drop_last = len(self.train_set) // _num_processes() > self.batch_size
        return self._loader(self.train_set, shuffle=True, drop_last=drop_last)

    def val_dataloader(self) -> Batches:
        """Test samples in order: there is no third part, and nothing is chosen by the validation accuracy."""
        return self.test_dataloader()

    def test_dataloader(self) -> Batches:
        """Test samples in order, with evaluation transforms."""
        self.setup("test")
        return self._exactly_once_loader(self.test_set)

    def calibration_dataloader(self, num_samples: int, seed: int) -> Batches:
        """A fixed choice of training samples with evaluation transforms, in fixed order.

        Args:
            num_samples: how many, over all processes.
            seed: same seed, same samples in the same order.

        Raises:
            ValueError: the training part has fewer samples.
        """
        train_set = self._seen("train", training=False)
        return self._exactly_once_loader(Subset(train_set, subset(len(train_set), num_samples, seed)))

    def _seen(self, part: Part, *, training: bool) -> TransformedSamples:
        assert self.format is not None, "configure() comes before setup() and the loaders"
        if part not in self._samples:
            self._samples[part] = self.samples(part)
        return TransformedSamples(self._samples[part], self.transform(self.format, training=training))

    def _exactly_once_loader(self, dataset: Samples | None) -> Batches:
        assert dataset is not None
        return self._loader(dataset, sampler=ExactlyOnceSampler(dataset) if _num_processes() > 1 else None)

    def _loader(self, dataset: Samples | None, **arguments: Any) -> Batches:
        assert dataset is not None
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            **arguments,
        )


def _num_processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
