"""What does every image data set offer to the pipeline, whatever its images are?"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from snp.data.labels import class_of, doubtful
from snp.data.loading import Part, SampleData, Samples
from snp.data.refusals import require_at_least

__all__ = ["ImageData", "ImageFormat", "Part", "SampleRule", "Samples", "Transform", "TransformedSamples"]

PART_WORDS: dict[Part, str] = {"train": "training", "val": "validation", "test": "test"}
Transform = Callable[[Any], torch.Tensor]


@dataclass(frozen=True)
class ImageFormat:
    """How images reach the network: size in pixels, statistics of [0, 1] channels, resizing, part kept by the crop."""

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_fraction: float


@dataclass(frozen=True)
class SampleRule:
    """What every sample of a part of a data set is held to."""

    name: str
    part: Part
    num_classes: int

    @property
    def where(self) -> str:
        """The part in words."""
        return f"data set {self.name}, {PART_WORDS[self.part]} part"

    def hold(self, index: int, image: torch.Tensor, label: object) -> int:
        """A sample as the network gets it.

        Returns:
            The number of its class.

        Raises:
            ValueError: its label is of no class, or its image holds no numbers.
        """
        number = class_of(label)
        if number is None or not 0 <= number < self.num_classes:
            found = " ".join(repr(label).split()) if number is None else number  # tensors are written over lines
            raise ValueError(
                f"{self.where}: sample {index} (counted from 0) has label {found}; its num_classes={self.num_classes} "
                f"allows 0 to {self.num_classes - 1}"
            )
        if not bool(torch.isfinite(image).all()):
            raise ValueError(
                f"{self.where}: sample {index} (counted from 0) holds NaN or infinite values as the network gets it; "
                "mend the image or its transform, or leave it out"
            )
        return number


class TransformedSamples(Dataset[tuple[torch.Tensor, int]]):
    """Samples seen through a transform: items are (float32 image (3, H, W), int label)."""

    def __init__(self, samples: Samples, transform: Transform, rule: SampleRule | None = None) -> None:
        self.samples = samples
        self.transform = transform
        self.rule = rule

    def __len__(self) -> int:
        return len(self.samples)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = self.samples[index]
        seen = self.transform(image)
        return seen, int(label) if self.rule is None else self.rule.hold(index, seen, label)


class ImageData(SampleData):
    """An image classification data set: subclasses say what `samples` there are and how to `transform` them.

    Order of calls: `num_classes`, `image_size` and `trains_from_scratch` may be read at once; then as `SampleData`
    says. All loaders yield (float32 images (N, 3, H, W), int64 labels (N,)).

    Args:
        name: how reports call the data set.
        batch_size: images per batch and process.
        num_workers: processes that load images, 0 for none.
        image_size: height and width in pixels, None for the network's own.
        val_fraction: see `SampleData`.

    Raises:
        ValueError: a size or number that makes no sense.
    """

    holds = "images"
    format: ImageFormat | None
    trains_from_scratch: bool = True

    def __init__(
        self, *, name: str, batch_size: int, num_workers: int, image_size: int | None, val_fraction: float = 0.1
    ) -> None:
        super().__init__(name=name, batch_size=batch_size, num_workers=num_workers, val_fraction=val_fraction)
        require_at_least(image_size=(image_size, 1))
        self.image_size = image_size
        self._samples: dict[Part, Samples] = {}

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Number of classes; labels are 0 to num_classes - 1."""

    @property
    def requirements(self) -> dict[str, Any]:
        """Classes and image size, and whether random weights are a fair start.

        Raises:
            ValueError: there is one class, between which nothing can be told.
        """
        if self.num_classes < 2:
            raise ValueError(f"data set {self.name}: num_classes={self.num_classes}; a classifier needs 2 or more")
        return {
            "num_classes": self.num_classes,
            "image_size": self.image_size,
            "trains_from_scratch": self.trains_from_scratch,
        }

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

    def seen(self, part: Part, *, training: bool) -> TransformedSamples:
        """The samples of a part, which are read once, through a transform."""
        assert self.format is not None, "configure() comes before setup() and the loaders"
        if part not in self._samples:
            self._samples[part] = self.samples(part)
        samples: Any = self._samples[part]
        rule = SampleRule(self.name, part, self.num_classes)
        if part != "val" and len(samples) == 0:
            raise ValueError(f"{rule.where}: it holds no sample; a run needs training and test samples")
        return TransformedSamples(samples, self.transform(self.format, training=training), rule)

    def look_at_ends(self) -> None:
        """Look at the first and the last sample of every part that is there, before any work, and at all known labels.

        Raises:
            ValueError: one is not as it should be, or the training or the test part is empty.
        """
        parts: tuple[Part, ...] = ("train", "val", "test") if self.has_validation_part else ("train", "test")
        for part in parts:
            seen = self.seen(part, training=False)
            # What is known without reading may be no label after all: the sample itself is held to the rule.
            for index in [0, len(seen) - 1, *doubtful(seen.samples, self.num_classes)] if len(seen) else ():
                seen[index]
