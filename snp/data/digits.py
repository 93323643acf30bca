"""What are the 1,797 handwritten digits that come with scikit-learn, ready within a second and without a download?"""

from typing import ClassVar

import torch
from torch.utils.data import TensorDataset
from torchvision.transforms.v2 import functional

from snp.data.base import ImageData, ImageFormat, Part, Samples, Transform
from snp.data.splits import stratified
from snp.data.transforms import interpolation_of_tensors, of_small_images

TEST_FRACTION = 0.2
SPLIT_SEED = 0
SHIFT = 2


class OfDigits(ImageData):
    """Images that are made of scikit-learn's digits.

    Args:
        batch_size: images per batch and process.
        num_workers: processes that load images; 0 is fastest, the images are in memory.
        image_size: height and width in pixels, None for the network's own.
        val_fraction: see `SampleData`.
    """

    title: ClassVar[str]

    def __init__(
        self, batch_size: int = 64, num_workers: int = 0, image_size: int | None = 32, val_fraction: float = 0.1
    ) -> None:
        super().__init__(
            name=self.title,
            batch_size=batch_size,
            num_workers=num_workers,
            image_size=image_size,
            val_fraction=val_fraction,
        )


class Digits(OfDigits):
    """Ten classes of 8 x 8 grey images, resized once to the network's size; 80 % for training, always the same ones."""

    title = "digits"

    @property
    def num_classes(self) -> int:
        """Ten."""
        return 10

    def samples(self, part: Part) -> Samples:
        """Images uint8 (3, image_size, image_size) in memory, labels int64."""
        assert self.format is not None
        digits, labels = handwritten(part)
        images = (digits.unsqueeze(1) * 255).round().to(torch.uint8)
        return resized(images, labels, self.format)

    def transform(self, image_format: ImageFormat, *, training: bool) -> Transform:
        """Digits are moved a little for training, and never mirrored."""
        shift = max(1, SHIFT * image_format.image_size // 32) if training else 0
        return of_small_images(image_format, shift=shift, flip=False)


def resized(images: torch.Tensor, labels: torch.Tensor, image_format: ImageFormat) -> Samples:
    """Grey images uint8 [N, 1, height, width] as a network wants them, in memory: three views of one channel."""
    size = [image_format.image_size, image_format.image_size]
    images = functional.resize(images, size, interpolation_of_tensors(image_format.interpolation), antialias=True)
    return TensorDataset(images.expand(-1, 3, -1, -1), labels)


def handwritten(part: Part) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of a part, shape [N, 8, 8], in [0, 1] of 17 grey values, and the digits that they show, int64 [N]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = torch.from_numpy(digits.target).long()
    indices = torch.tensor(stratified(labels.tolist(), TEST_FRACTION, SPLIT_SEED)[0 if part == "train" else 1])
    return torch.from_numpy(digits.images)[indices].float() / 16, labels[indices]
