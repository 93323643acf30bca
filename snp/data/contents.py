"""Are the data under a path still the same?  A hash that a copy elsewhere shares, and that changed data do not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from snp.data.archive import content_of, size_of
from snp.data.image_folder import ImageFolder
from snp.data.labels import known_labels
from snp.data.loading import Part, SampleData
from snp.data.text import TextData

__all__ = ["contents_of"]

# At most so many are read, evenly over all of them: uncompressed images are all of one size.
_FILES, _SAMPLES = 256, 64


def contents_of(data: SampleData) -> str:
    """Hash of what tells samples apart without reading them all, hexadecimal.

    Of texts their words; of folders and tar files of images the paths below the root, sizes, and the bytes of some; of
    others the number of samples in every part, labels where they are known, and values: all that lie in memory, else
    those of some samples. Samples that differ from one reading to the next count by their number. Neither where data
    lie nor when they were written counts.

    Args:
        data: configured for the network.

    Raises:
        ValueError: the data are not where the settings say.
    """
    digest = hashlib.sha256()
    if isinstance(data, TextData):
        told = _of_texts(data)
    else:
        told = _of_images(data) if isinstance(data, ImageFolder) else _of_samples(data)
    for piece in told:
        digest.update(piece)
    return digest.hexdigest()[:16]


def _of_texts(data: TextData) -> Iterator[bytes]:
    for part in ("train", "test", *(["second"] if data.has_second else [])):
        text = data.text(part).encode()
        yield f"{part} {len(text)}\n".encode()
        yield text


def _of_images(data: ImageFolder) -> Iterator[bytes]:
    images = sorted(image for part in data.parts().values() for _, image in part)
    for image in images:
        yield f"{image.name}\0{size_of(image)}\n".encode()
    yield from map(content_of, _spread(images, _FILES))


def _spread(samples: Sequence[Any], most: int) -> Sequence[Any]:
    step = max(1, len(samples) // most)
    return samples[::step][:most]


def _of_samples(data: SampleData) -> Iterator[bytes]:
    for part in get_args(Part):
        if part == "val" and not data.has_validation_part:
            continue
        try:
            seen: Any = data.seen(part, training=False)
        except ValueError:  # a part that this data set does not have
            continue
        labels = known_labels(getattr(seen, "samples", seen))
        yield f"{part} {len(seen)} {labels}\n".encode()
        yield from _values(seen)


def _values(seen: Any) -> Iterator[bytes]:
    stored = getattr(seen, "samples", seen)
    if isinstance(stored, TensorDataset):
        yield from map(_bytes_of, stored.tensors)
        return
    for index in _spread(range(len(seen)), _SAMPLES):
        # As the network sees it in evaluation, where somebody's class may still draw something at random.
        first, second = (_bytes_of(seen[index][0]) for _ in range(2))
        if first == second:
            yield first


def _bytes_of(values: Tensor) -> bytes:
    return values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
