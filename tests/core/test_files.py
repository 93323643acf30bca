"""Is a file whole or not there, and is it said which one found no room?"""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from snp.core.files import write_whole
from snp.report import canvas
from snp.report.page import write_page
from snp.run.folder import RunFolder

REMEDY = "File too large; make room there and do the same again: a run goes on from what it has written$"


@contextmanager
def no_room() -> Iterator[None]:
    """Files take a hundred bytes, as on a disk that is all but full."""
    small, large = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, large))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (small, large))


def many_numbers(folder: Path) -> None:
    RunFolder(folder).record({f"dense/{number}": number for number in range(100)})


WRITERS: dict[str, Callable[[Path], object]] = {
    "plan.json": lambda folder: write_whole(folder / "plan.json", "x" * 1000),
    "metrics.json": many_numbers,
    "data.json": lambda folder: RunFolder(folder).write_data({"name": "d" * 200}, {}, 0),
    "report.md": lambda folder: write_page(folder / "report.md", "x" * 1000),
    "widths.csv": lambda folder: canvas.write_csv(folder / "widths.png", ("layer",), [("x" * 300,)]),
    "widths.png": lambda folder: canvas.save(Figure(), folder / "widths.png", "title"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_no_room(name: str, tmp_path: Path) -> None:
    """The file is named, with what to do; nothing half-written is left, and with room it is written."""
    with no_room(), pytest.raises(OSError, match=rf"^{tmp_path / name} cannot be written: {REMEDY}"):
        WRITERS[name](tmp_path)
    assert list(tmp_path.iterdir()) == []
    WRITERS[name](tmp_path)
    assert (tmp_path / name).stat().st_size > 100


def test_what_was_there_stays(tmp_path: Path) -> None:
    """To the letter, without a file beside it; where nothing may be written, room is no remedy."""
    path = tmp_path / "plan.json"
    write_whole(path, "before\r\n")
    with no_room(), pytest.raises(OSError, match=REMEDY):
        write_whole(path, "x" * 1000, is_shared=True)
    assert path.read_bytes() == b"before\r\n"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match=r"there cannot be written: No such file or directory; choose another folder$"):
        write_whole(tmp_path / "not" / "there", "x")
