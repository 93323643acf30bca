"""Are changed data told from the same ones, and copies elsewhere not?"""

import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, TensorDataset

from snp.data.base import ImageData, ImageFormat, Part, Samples, Transform
from snp.data.cifar10 import Cifar10
from snp.data.contents import contents_of
from snp.data.digits import Digits
from snp.data.image_folder import ImageFolder
from snp.data.text import TextData
from snp.data.wikitext2 import WikiText2


def picture(number: int) -> bytes:
    """An image whose file is as large as those of all other numbers."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "bmp")
    return buffer.getvalue()


def write_pictures(root: Path) -> Path:
    """Two classes of ten."""
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for number in range(10):
            (root / name / f"{number}.bmp").write_bytes(picture(10 * label + number))
    return root


def of_folder(root: Path) -> str:
    return contents_of(ImageFolder(str(root)))


def swapped(root: Path) -> None:
    (root / "cat").rename(root / "other")
    (root / "dog").rename(root / "cat")
    (root / "other").rename(root / "dog")


def fewer(root: Path) -> None:
    (root / "cat" / "3.bmp").unlink()


def renamed(root: Path) -> None:
    (root / "cat" / "3.bmp").rename(root / "cat" / "x.bmp")


def longer(root: Path) -> None:
    (root / "dog" / "3.bmp").write_bytes(picture(3) + b"x")


@pytest.mark.parametrize("change", [swapped, fewer, renamed, longer])
def test_other_images_under_the_same_path(change: Any, tmp_path: Path) -> None:
    """Classes that changed places, and images that went, moved or changed."""
    before = of_folder(write_pictures(tmp_path / "pictures"))
    change(tmp_path / "pictures")
    assert of_folder(tmp_path / "pictures") != before


def test_a_copy_elsewhere_and_later(tmp_path: Path) -> None:
    """The same images at another path, in a tar file too, and files that were written again as they were."""
    root = write_pictures(tmp_path / "pictures")
    before = of_folder(root)
    shutil.copytree(root, tmp_path / "deep" / "copy")
    assert of_folder(tmp_path / "deep" / "copy") == before
    os.utime(root / "cat" / "3.bmp", (0, 0))
    assert of_folder(root) == before
    assert of_folder(Path(shutil.make_archive(str(tmp_path / "all"), "tar", root))) == before


def test_texts(tmp_path: Path) -> None:
    """Every text that is read counts by its words, whatever its file is called."""
    for name in ("train", "test", "second"):
        (tmp_path / name).write_text(f"{name} one two three\n")

    def mark(**files: str) -> str:
        return contents_of(TextData(**{part: str(tmp_path / name) for part, name in files.items()}))

    before = mark(train="train", test="test")
    shutil.copy(tmp_path / "train", tmp_path / "copy")
    assert mark(train="copy", test="test") == before
    marks = {before, mark(train="train", test="test", second="second"), mark(train="test", test="train")}
    (tmp_path / "test").write_text("test one\n")
    assert len(marks | {mark(train="train", test="test")}) == 4


def test_text_of_splits(tmp_path: Path) -> None:
    """A folder of splits counts by the splits that are read."""
    for split in ("train", "valid", "test"):
        (tmp_path / f"wiki.{split}.raw").write_text(split)
    first, second = (contents_of(WikiText2(str(tmp_path), train_split=split)) for split in ("train", "valid"))
    assert first != second
    (tmp_path / "wiki.valid.raw").write_text("other")
    assert contents_of(WikiText2(str(tmp_path))) == first


class InMemory(ImageData):
    """Images of somebody else's class."""

    def __init__(self, labels: list[int], shade: float = 0.0, *, in_memory: bool = True, noise: float = 0.0) -> None:
        super().__init__(name="own", batch_size=4, num_workers=0, image_size=8)
        self.labels, self.shade, self.in_memory, self.noise = labels, shade, in_memory, noise

    @property
    def num_classes(self) -> int:
        return 3

    def samples(self, part: Part) -> Samples:
        images = torch.full((len(self.labels), 3, 8, 8), self.shade)
        pairs = TensorDataset(images, torch.tensor(self.labels))
        return pairs if self.in_memory else Subset(pairs, range(len(self.labels)))

    def transform(self, image_format: ImageFormat, *, training: bool) -> Transform:
        return lambda image: image + self.noise * torch.randn(image.shape)


def configured(data: ImageData) -> ImageData:
    data.configure(8, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)
    return data


def test_other_data_sets_by_their_labels() -> None:
    """What is known without reading: how many samples there are, and of which classes."""
    marks = [contents_of(configured(InMemory(labels))) for labels in ([0, 1, 2], [0, 1, 2], [0, 2, 1], [0, 1, 2, 0])]
    assert marks[0] == marks[1]
    assert len(set(marks)) == 3
    assert contents_of(configured(Digits())) == contents_of(configured(Digits()))


@pytest.mark.parametrize("in_memory", [True, False])
def test_other_data_sets_by_their_values(in_memory: bool) -> None:
    """Images that changed under the same labels; what is drawn at every reading says nothing."""

    def mark(shade: float, noise: float = 0.0) -> str:
        return contents_of(configured(InMemory([0, 1, 2], shade, in_memory=in_memory, noise=noise)))

    assert mark(1.0) == mark(1.0) != mark(2.0)
    assert mark(1.0, noise=1.0) == mark(1.0, noise=1.0)


class Unreadable(InMemory):
    """A data set whose samples cannot be read."""

    def transform(self, image_format: ImageFormat, *, training: bool) -> Transform:
        def broken(image: object) -> torch.Tensor:
            raise ValueError("image 0 is cut short")

        return broken


def test_samples_that_cannot_be_read_are_no_missing_part() -> None:
    """What the data set says of them is heard, or a hash of nothing would be that of any other samples."""
    with pytest.raises(ValueError, match="image 0 is cut short"):
        contents_of(configured(Unreadable([0, 1, 2], in_memory=False)))


def test_the_original_images_of_cifar10_by_their_values(tmp_path: Path) -> None:
    """Tar files of other images under the same names."""
    marks = []
    for first in (0, 0, 1):
        for part in ("train", "test"):
            for number in range(4):
                place = tmp_path / "images" / ("cat", "dog")[number % 2] / f"{number}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng(first + number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place)
            shutil.make_archive(str(tmp_path / part), "tar", tmp_path / "images")
        marks.append(contents_of(configured(Cifar10(root=str(tmp_path)))))
    assert marks[0] == marks[1] != marks[2]
