"""How does a file come to its place whole, and what is said where there is no room for it?"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["named", "whole", "write_whole"]

# No room on the disk, in what a user may have of it, or in one file; libraries give their own errors no number.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """What the system says of a file that is being written names the file, and what to do.

    Raises:
        OSError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        room = "make room there and do the same again: a run goes on from what it has written"
        remedy = room if error.errno in _NO_ROOM else "choose another folder"
        raise OSError(f"{path} cannot be written: {error.strerror or error}; {remedy}") from error


@contextmanager
def whole(path: Path, *, is_shared: bool = False) -> Iterator[Path]:
    """A path beside a file, to be written; what was written there takes the file's place once it is all there.

    A reader, or a killed process, never sees half a file, and what could not be finished is removed.

    Args:
        path: of the file.
        is_shared: other processes may write the same file.

    Raises:
        OSError: it cannot be written; the message names it and says what to do.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial" if is_shared else f"{path.name}.partial")
    try:
        with named(path):
            yield partial
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str, *, is_shared: bool = False) -> None:
    """Write a text, to the letter, whole or not at all.

    Args:
        path: of the file.
        text: all of it.
        is_shared: other processes may write the same file.

    Raises:
        OSError: it cannot be written; the message names it and says what to do.
    """
    with whole(path, is_shared=is_shared) as partial:
        partial.write_text(text, encoding="utf-8", newline="")
