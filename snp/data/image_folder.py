"""What are the samples of a folder, or of a tar file, with one folder of images per class?"""

from pathlib import Path
from typing import Any

from PIL.Image import Image
from torch.utils.data import Dataset

from snp.data.archive import StoredImage, list_images, read
from snp.data.base import ImageData, ImageFormat, Part, Samples, Transform
from snp.data.class_folders import PART_FOLDERS, ClassImage, empty_classes, parts_of
from snp.data.refusals import path_given, require_seed, require_share
from snp.data.splits import stratified
from snp.data.transforms import of_photographs


class StoredSamples(Dataset[tuple[Image, int]]):
    """Images decoded when they are asked for: items are (RGB PIL image, int label)."""

    def __init__(self, images: list[StoredImage], labels: list[int]) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        return read(self.images[index]), self.labels[index]


class ImageFolder(ImageData):
    """Any images with one folder per class, with or without a division into `train`, `val` and `test`.

    Args:
        root: a folder or a plain tar file. It holds class folders, or the folders `train` and `test` that do, and
            perhaps `val`; with `train` and `val` alone the latter is for testing.
        batch_size: images per batch and process.
        num_workers: processes that load images.
        image_size: height and width in pixels, None for the network's own.
        classes: None numbers the class folders in alphabetical order; "imagenet-1k" takes folders named by WordNet ids
            (all of ImageNet's or some) and gives them the labels of the 1000 classes, so that pretrained networks score
            right.
        test_fraction: part of the samples to test on, in (0, 1), where the root is not divided; else it may be 0.
        split_seed: same seed, same division.
        name: how reports call the data set.
        val_fraction: see `SampleData`; without effect where the root has folders `train`, `val` and `test`.
    """

    def __init__(
        self,
        root: str | None,
        batch_size: int = 64,
        num_workers: int = 4,
        image_size: int | None = None,
        classes: str | None = None,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        name: str = "image_folder",
        val_fraction: float = 0.1,
    ) -> None:
        super().__init__(
            name=name,
            batch_size=batch_size,
            num_workers=num_workers,
            image_size=image_size,
            val_fraction=val_fraction,
        )
        if classes not in (None, "imagenet-1k"):
            raise ValueError(f"data.classes={classes}: choose null (the folders) or imagenet-1k")
        self.root = path_given("root", root)
        require_share("test_fraction", test_fraction)
        require_seed("split_seed", split_seed)
        self.classes = classes
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        # A thousand classes cannot be learned from the images at hand when those cover only some of the classes.
        self.trains_from_scratch = classes is None
        self._parts: dict[Part | None, list[ClassImage]] | None = None

    @property
    def num_classes(self) -> int:
        """The number of class folders, or 1000; looks into the root."""
        return len(self.class_names())

    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels.

        Raises:
            FileNotFoundError: the root is not there.
            ValueError: no root given, or no class folders in it.
        """
        if self.classes == "imagenet-1k":
            from timm.data import ImageNetInfo

            return tuple(ImageNetInfo("imagenet-1k").label_names())
        parts = self.parts()
        images = parts["train"] if "train" in parts else next(iter(parts.values()))
        return tuple(sorted({image.class_name for image in images}))

    @property
    def requirements(self) -> dict[str, Any]:
        """As of every image data set.

        Raises:
            ValueError: there is one class.
        """
        if len(names := self.class_names()) < 2:
            raise ValueError(
                f"data.root={self.root}: {', '.join(names)} is the only class folder with images; a classifier needs "
                "two classes or more"
            )
        return super().requirements

    @property
    def has_validation_part(self) -> bool:
        """Are there folders `train`, `val` and `test`?"""
        return "val" in self.parts()

    def samples(self, part: Part) -> Samples:
        """The images of a part, decoded when asked for.

        Raises:
            FileNotFoundError: the root is not there.
            ValueError: no root, no class folders, a part that is missing, or a folder that is no class.
        """
        parts = self.parts()
        if None in parts:
            images, labels = self._labelled(parts[None])
            indices = stratified(labels, self.test_fraction, self.split_seed)[1 if part == "test" else 0]
            return StoredSamples([images[index] for index in indices], [labels[index] for index in indices])
        if part not in parts:
            folders = " or ".join(PART_FOLDERS[part])
            raise ValueError(f"data.root={self.root}: it has no images in a folder {folders}; add it to the others")
        return StoredSamples(*self._labelled(parts[part]))

    def places(self) -> dict[Part, list[tuple[str, StoredImage]]]:
        """Part -> every image of it, with the name of its class."""
        names, there = self.class_names(), self.parts()
        order: tuple[Part, ...] = ("train", "val", "test")
        found: dict[Part, list[tuple[str, StoredImage]]] = {}
        for part in order:
            if part in there or (None in there and part != "val"):
                seen = self.samples(part)
                assert isinstance(seen, StoredSamples)
                found[part] = [(names[label], image) for image, label in zip(seen.images, seen.labels, strict=True)]
        return found

    def transform(self, image_format: ImageFormat, *, training: bool) -> Transform:
        """Standard transforms for photographs."""
        return of_photographs(image_format, training=training)

    def parts(self) -> dict[Part | None, list[ClassImage]]:
        """All images, read off the root once: `{None: images}` when it is not divided into training and testing."""
        if self._parts is None:
            if self.root is None:
                raise ValueError("data.root is not set: give the folder or tar file with the images, data.root=PATH")
            parts = parts_of(list_images(Path(self.root).expanduser()))
            if not parts:
                raise ValueError(
                    f"data.root={self.root}: it has no folders with images in them; give one folder per class"
                )
            self._refuse_empty(parts)
            if None in parts and not self.test_fraction:
                raise ValueError(
                    f"data.test_fraction=0: data.root={self.root} has no part to test on; choose a number between 0 "
                    "and 1, or give folders train and test"
                )
            self._parts = parts
        return self._parts

    def _refuse_empty(self, parts: dict[Part | None, list[ClassImage]]) -> None:
        """A class without images would be missing among the labels, and all after it would be wrong."""
        empty = empty_classes(Path(str(self.root)).expanduser(), [image for part in parts.values() for image in part])
        if empty:
            raise ValueError(
                f"data.root={self.root}: {len(empty)} class folders hold no images ({', '.join(empty[:3])}); remove "
                "them, or give them their images"
            )

    def _labelled(self, images: list[ClassImage]) -> tuple[list[StoredImage], list[int]]:
        numbers = {name: label for label, name in enumerate(self.class_names())}
        unknown = sorted({image.class_name for image in images} - set(numbers))
        if unknown:
            known = "WordNet ids of imagenet-1k" if self.classes else "class folders of the training part"
            raise ValueError(f"data.root={self.root}: the folders {', '.join(unknown[:3])} are not among the {known}")
        return [image.image for image in images], [numbers[image.class_name] for image in images]
