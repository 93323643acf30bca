"""Which images lie in a folder or a plain tar file, and how is one of them read?

Nothing is ever extracted: a tar file is indexed once, and an image is read from its place in the file. A reader holds
no open file, so it works the same in any number of loading processes.
"""

import io
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")

# Of images, too, and not read: several frames, or formats that need more than Pillow.
_OTHER_ENDINGS = frozenset(
    ".gif .heic .heif .avif .jfif .jpe .jp2 .jxl .tga .dng .cr2 .nef .svg .pgm .pbm .ico".split()
)
_SIXTEEN_BITS = 65535


class StoredImage(NamedTuple):
    """Where an image is: file `name` below the folder `root`, or `size` bytes from `offset` on in the tar file."""

    name: str
    root: str
    offset: int = 0
    size: int | None = None


def list_images(root: Path) -> list[StoredImage]:
    """All images below a folder or in a tar file, sorted by path; hidden files, links and other files are left out.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the file is not a plain (uncompressed) tar file, a member's name points outside of it, or links of a
            folder lead nowhere.
    """
    found = sorted(image for image in _files(root) if image.name.lower().endswith(IMAGE_ENDINGS))
    if root.is_dir():
        _refuse_dangling(root, found)
    return found


def unread_images(root: Path) -> dict[str, int]:
    """Endings of images that are not read -> how many files have them, in a folder or a tar file."""
    endings = (PurePosixPath(file.name).suffix.lower() for file in _files(root))
    return dict(Counter(ending for ending in endings if ending in _OTHER_ENDINGS))


def _refuse_dangling(root: Path, images: list[StoredImage]) -> None:
    paths = [os.path.join(image.root, image.name) for image in images]
    dangling = [path for path in paths if os.path.islink(path) and not os.path.exists(path)]
    if dangling:
        names = ", ".join(os.path.relpath(path, root) for path in dangling[:3]) + ", ..." * (len(dangling) > 3)
        raise ValueError(
            f"data.root={root}: {len(dangling)} link{'s lead' if len(dangling) > 1 else ' leads'} nowhere ({names}); "
            "remove them, or bring their files back"
        )


def _files(root: Path) -> Iterator[StoredImage]:
    if root.is_dir():
        return _in_folder(root)
    if root.is_file():
        return _in_tar(root)
    raise FileNotFoundError(f"data.root={root}: there is no such folder or tar file; give the path of the data")


def read(image: StoredImage) -> Image.Image:
    """The image as RGB, decoded.

    Raises:
        ValueError: the bytes are not an image.
    """
    content = content_of(image)
    try:
        with Image.open(io.BytesIO(content)) as decoded:
            return _as_seen(decoded)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow names the bytes in memory, which say nothing.
        why = "its bytes are those of no image that Pillow knows" if "BytesIO" in str(error) else str(error)
        raise ValueError(f"{image.name} in {image.root} is not a readable image: {why}") from error


def content_of(image: StoredImage) -> bytes:
    """Its bytes, as they are stored."""
    with open(_file_of(image), "rb") as file:
        file.seek(image.offset)
        return file.read(image.size)


def size_of(image: StoredImage) -> int:
    """How many bytes these are."""
    return os.path.getsize(_file_of(image)) if image.size is None else image.size


def _file_of(image: StoredImage) -> str:
    return image.root if image.size is not None else os.path.join(image.root, image.name)


def _as_seen(decoded: Image.Image) -> Image.Image:
    """RGB with eight bits, turned as the camera was held.

    Raises:
        ValueError: the values are floating numbers, of which nobody says which one is white.
    """
    if decoded.mode == "F":
        raise ValueError("it holds floating numbers; convert it to 8 or 16 bits first")
    turned = ImageOps.exif_transpose(decoded)
    if turned.mode == "I" or turned.mode.startswith("I;16"):
        values = np.asarray(turned)  # sixteen bits: the conversion of PIL would cut them off at 255
        if values.min() < 0 or values.max() > _SIXTEEN_BITS:
            raise ValueError("its values are no sixteen bits; convert it to 8 or 16 bits first")
        turned = Image.fromarray((values.astype(np.uint32) * 255 // _SIXTEEN_BITS).astype(np.uint8))
    return turned.convert("RGB")


def _in_folder(root: Path) -> Iterator[StoredImage]:
    above = str(root)  # one string for all images
    for folder, subfolders, names in os.walk(root, followlinks=True):
        here = os.path.realpath(folder)
        # A link to a folder around this one would be followed for ever.
        subfolders[:] = [
            name for name in subfolders if not name.startswith(".") and not _leads_around(Path(folder, name), here)
        ]
        for name in names:
            if not name.startswith("."):
                yield StoredImage(Path(folder, name).relative_to(root).as_posix(), above)


def _leads_around(link: Path, here: str) -> bool:
    return link.is_symlink() and Path(here).is_relative_to(os.path.realpath(link))


def _in_tar(root: Path) -> Iterator[StoredImage]:
    above = str(root)
    try:
        with tarfile.open(root, "r:") as archive:
            for member in archive:
                if not member.isreg() or member.issparse():
                    continue
                parts = _safe_parts(root, member.name)
                if not any(part.startswith(".") for part in parts):
                    yield StoredImage("/".join(parts), above, member.offset_data, member.size)
    except tarfile.ReadError as error:
        raise ValueError(
            f"data.root={root}: not a plain tar file ({error}); compressed ones must be decompressed first"
        ) from error


def _safe_parts(root: Path, name: str) -> tuple[str, ...]:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"data.root={root}: the member {name!r} points outside of the tar file; make the file anew")
    return path.parts
