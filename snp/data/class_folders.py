"""Which class is each image of, and is it for training, validation or testing, by the names of its folders alone?"""

import sys
from pathlib import Path
from typing import NamedTuple

from snp.data.archive import StoredImage
from snp.data.base import Part

PART_FOLDERS: dict[Part, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val"), "val": ("val",)}


class ClassImage(NamedTuple):
    """An image and the name of its class folder."""

    class_name: str
    image: StoredImage


def parts_of(images: list[StoredImage]) -> dict[Part | None, list[ClassImage]]:
    """Images by part of the data and by class.

    Folders around everything (as a tar file of one folder has) are looked through. Then come the class folders, or the
    folders `train`, `val` and `test` with class folders in them; without `test`, `val` is for testing. Images in no
    class folder are left out.

    Returns:
        Non-empty parts only: `{None: images}` when the data are not divided, else some of "train", "val" and "test".
    """
    paths = [image.name.split("/") for image in images]
    depth = _num_wrappers(paths)
    first = {path[depth] for path in paths if len(path) > depth + 2}
    known = {name for names in PART_FOLDERS.values() for name in names}
    if "train" not in first and not (first and first <= known):
        return _without_empty({None: _by_class(images, paths, depth)})
    parts: dict[Part | None, list[ClassImage]] = {}
    for part, names in PART_FOLDERS.items():
        if part == "val" and "test" not in first:
            continue  # it is all there is to test on
        folder = next((name for name in names if name in first), None)
        inside = [index for index, path in enumerate(paths) if path[depth] == folder]
        parts[part] = _by_class([images[index] for index in inside], [paths[index] for index in inside], depth + 1)
    return _without_empty(parts)


def empty_classes(root: Path, images: list[ClassImage]) -> list[str]:
    """Folders beside class folders that hold no images, as paths below the root; none are known of a tar file.

    Args:
        root: where the images are.
        images: those of all parts.
    """
    if not root.is_dir():
        return []
    # All class folders of a part have the same depth, so the first images tell where they lie.
    above = {tuple(image.name.split("/"))[: image.name.split("/").index(name)] for name, image in images}
    full = {tuple(image.name.split("/"))[: len(place) + 1] for place in above for _, image in images}
    found = [
        (*place, path.name)
        for place in above
        for path in root.joinpath(*place).iterdir()
        if path.is_dir() and not path.name.startswith(".")
    ]
    return sorted("/".join(folder) for folder in found if folder not in full)


def _num_wrappers(paths: list[list[str]]) -> int:
    known = {name for names in PART_FOLDERS.values() for name in names}
    depth = 0
    while paths and all(len(path) > depth + 2 for path in paths) and len({path[depth] for path in paths}) == 1:
        if paths[0][depth] in known:
            break
        depth += 1
    return depth


def _by_class(images: list[StoredImage], paths: list[list[str]], depth: int) -> list[ClassImage]:
    # Interned, so that a million images share a thousand strings.
    return [
        ClassImage(sys.intern(path[depth]), image)
        for image, path in zip(images, paths, strict=True)
        if len(path) > depth + 1
    ]


def _without_empty(parts: dict[Part | None, list[ClassImage]]) -> dict[Part | None, list[ClassImage]]:
    return {part: found for part, found in parts.items() if found}
