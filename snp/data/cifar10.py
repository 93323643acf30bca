"""What are the samples of CIFAR-10, from tar files of JPEG images or from the original files?"""

from pathlib import Path

import torch
from torch.utils.data import TensorDataset
from torchvision.datasets import CIFAR10
from torchvision.transforms.v2 import functional

from snp.data.archive import StoredImage, list_images, read
from snp.data.base import ImageData, ImageFormat, Part, Samples, Transform
from snp.data.refusals import path_given
from snp.data.transforms import of_small_images

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZE = 32
SHIFT = 4


class Cifar10(ImageData):
    """Ten classes of 32 x 32 images, decoded once and held in memory.

    Args:
        root: a folder with `train.tar` and `test.tar`, each with a folder of images per class, or the folder above
            `cifar-10-batches-py`, the original python files.
        batch_size: images per batch and process.
        num_workers: processes that load images.
        image_size: height and width in pixels, None for the network's own; images are resized when it is not 32.
        val_fraction: see `SampleData`.
    """

    def __init__(
        self,
        root: str | None,
        batch_size: int = 128,
        num_workers: int = 0,
        image_size: int | None = SIZE,
        val_fraction: float = 0.1,
    ) -> None:
        super().__init__(
            name="cifar10",
            batch_size=batch_size,
            num_workers=num_workers,
            image_size=image_size,
            val_fraction=val_fraction,
        )
        self.root = path_given("root", root)

    @property
    def num_classes(self) -> int:
        """Ten."""
        return 10

    def samples(self, part: Part) -> Samples:
        """Images uint8 (3, 32, 32) in memory, labels int64 in alphabetical order of the classes.

        Raises:
            ValueError: no root, or neither layout there, or files that are damaged.
        """
        if self.root is None:
            raise ValueError("data.root is not set: give the folder with train.tar and test.tar, data.root=PATH")
        root = Path(self.root).expanduser()
        tar = root / f"{part}.tar"
        if tar.is_file():
            return _from_tar(tar)
        if (root / CIFAR10.base_folder).is_dir():
            return _from_original(root, part)
        raise ValueError(
            f"data.root={root}: it has neither {part}.tar nor {CIFAR10.base_folder}; give the folder with train.tar "
            "and test.tar, or the one above the original python files"
        )

    def transform(self, image_format: ImageFormat, *, training: bool) -> Transform:
        """Training: moved by up to 4 pixels and mirrored at random, as in He et al. 2015."""
        return of_small_images(image_format, shift=SHIFT if training else 0, flip=training)


def _from_tar(path: Path) -> TensorDataset:
    stored = list_images(path)
    if not stored:
        raise ValueError(f"data.root: {path} holds no images")
    unknown = sorted({_class_of(image) for image in stored} - set(CLASSES))
    if unknown:
        raise ValueError(f"data.root: {path} has folders that are no class of CIFAR-10: {', '.join(unknown[:3])}")
    images = torch.stack([_pixels(image) for image in stored])
    return TensorDataset(images, torch.tensor([CLASSES.index(_class_of(image)) for image in stored]))


def _pixels(image: StoredImage) -> torch.Tensor:
    pixels: torch.Tensor = functional.pil_to_tensor(read(image))
    if pixels.shape != (3, SIZE, SIZE):
        width, height = pixels.shape[2], pixels.shape[1]
        raise ValueError(f"data.root: {image.name} in {image.root} has {width} x {height} pixels, not {SIZE} x {SIZE}")
    return pixels


def _class_of(image: StoredImage) -> str:
    return image.name.split("/")[0]


def _from_original(root: Path, part: Part) -> TensorDataset:
    try:
        original = CIFAR10(root, train=part == "train", download=False)
    except RuntimeError as error:
        raise ValueError(f"data.root={root}: files of {CIFAR10.base_folder} are missing or damaged") from error
    images = torch.from_numpy(original.data).permute(0, 3, 1, 2).contiguous()  # (N, 3, 32, 32)
    return TensorDataset(images, torch.tensor(original.targets))
