"""Which images lie in two classes or two parts of the data, which are not read, and is a text in another?

Files of equal content are the same image, whatever their names.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from snp.data.archive import IMAGE_ENDINGS, StoredImage, content_of, size_of, unread_images
from snp.data.base import PART_WORDS, Part
from snp.data.image_folder import ImageFolder
from snp.data.loading import SampleData
from snp.data.text import TextData

__all__ = ["MOST_IMAGES", "doubts_of"]

MOST_IMAGES = 50_000  # beyond, reading them would take minutes: nothing is looked for

# A place of an image: its part, its class, and where it is stored.
_Place = tuple[Part, str, StoredImage]


def doubts_of(data: SampleData) -> tuple[str, ...]:
    """What a user should know of samples that are there more than once: of images with counts and an example each.

    Args:
        data: any; folders of images and texts are looked at.

    Returns:
        At most three sentences, the graver ones first; none of more than `MOST_IMAGES` images.
    """
    if isinstance(data, TextData):
        return _of_texts(data)
    parts = data.places() if isinstance(data, ImageFolder) else {}
    places: list[_Place] = [(part, name, image) for part, images in parts.items() for name, image in images]
    if len(places) > MOST_IMAGES:
        return ()
    copies = _copies(places)
    in_classes = [pair for same in copies if (pair := _pair(same, 1))]
    in_parts = [pair for same in copies if (pair := _pair(same, 0))]
    found = []
    if in_classes:
        found.append(
            f"{_count(in_classes)} in two classes ({_example(in_classes)}): one of the two labels is wrong, where the "
            "network is trained or where it is scored"
        )
    if in_parts:
        names = " and ".join(PART_WORDS[part] for part in dict.fromkeys(place[0] for place in in_parts[0]))
        found.append(
            f"{_count(in_parts)} in two parts, as {names} ({_example(in_parts)}): scores on images that were trained "
            "on look better than the network is"
        )
    if isinstance(data, ImageFolder) and (unread := unread_images(Path(str(data.root)).expanduser())):
        kinds = ", ".join(f"{count:,} {ending}" for ending, count in sorted(unread.items()))
        found.append(f"images of other formats are left out ({kinds}); {' '.join(IMAGE_ENDINGS)} are read")
    return tuple(found)


def _of_texts(data: TextData) -> tuple[str, ...]:
    """Which texts for scores lie in the one that is trained on."""
    trained = data.text("train")
    scored = {"data.test": data.text("test"), "data.second": data.text("second") if data.has_second else ""}
    names = [name for name, text in scored.items() if text.strip() and text.strip() in trained]
    if not names:
        return ()
    return (
        f"the text of {' and of '.join(names)} lies in the training text: perplexities on text that was trained on "
        "look better than the network is",
    )


def _copies(places: Sequence[_Place]) -> list[list[_Place]]:
    """Places of equal content; only files of equal size are read."""
    sizes = [size_of(image) for _, _, image in places]
    often = {size for size, times in Counter(sizes).items() if times > 1}
    found: dict[bytes, list[_Place]] = {}
    for place, size in zip(places, sizes, strict=True):
        if size in often:
            mark = hashlib.blake2b(content_of(place[2]), digest_size=16).digest()
            found.setdefault(mark, []).append(place)
    return [same for same in found.values() if len(same) > 1]


def _pair(same: Sequence[_Place], what: int) -> tuple[_Place, _Place] | None:
    """Two places that differ in their part (0) or their class (1)."""
    return next((pair for pair in combinations(same, 2) if pair[0][what] != pair[1][what]), None)


def _count(pairs: Sequence[tuple[_Place, _Place]]) -> str:
    return f"{len(pairs):,} image{' lies' if len(pairs) == 1 else 's lie'}"


def _example(pairs: Sequence[tuple[_Place, _Place]]) -> str:
    return " and ".join(image.name for _, _, image in pairs[0])
