"""Are the data under a path still the same?  A hash that a copy elsewhere shares, and that changed data do not."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any, get_args

from snp.data.archive import StoredImage, content_of, size_of
from snp.data.image_folder import ImageFolder
from snp.data.labels import known_labels
from snp.data.loading import Part, SampleData
from snp.data.text import TextData

__all__ = ["contents_of"]

_READ = 256  # images at most, evenly over all of them: uncompressed ones are all of one size


def contents_of(data: SampleData) -> str:
    """Hash of what tells samples apart without reading them all, hexadecimal.

    Of texts their words; of folders and tar files of images the paths below the root, sizes, and the bytes of some;
    of others the number of samples in every part, and labels where they are known. Neither where they lie nor when they
    were written counts.

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
    yield from map(content_of, _spread(images))


def _spread(images: list[StoredImage]) -> list[StoredImage]:
    step = max(1, len(images) // _READ)
    return images[::step][:_READ]


def _of_samples(data: SampleData) -> Iterator[bytes]:
    for part in get_args(Part):
        if part == "val" and not data.has_validation_part:
            continue
        with contextlib.suppress(ValueError):  # a part that this data set does not have
            seen: Any = data.seen(part, training=False)
            labels = known_labels(getattr(seen, "samples", seen))
            yield f"{part} {len(seen)} {labels}\n".encode()
