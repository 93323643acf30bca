"""What can stand on a page?  Values that know nothing of Markdown or HTML.

Texts may mark `code` with backticks and **strong** words with two stars; everything else in them is plain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "Bar",
    "Block",
    "Cell",
    "Code",
    "Figure",
    "Listing",
    "Notes",
    "Page",
    "Section",
    "Table",
    "Text",
    "Tile",
    "Tiles",
]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Listing:
    """Short lines, one below the other."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Notes:
    """What a reader must know before all else; `are_warnings` colours them so."""

    items: tuple[str, ...]
    are_warnings: bool = True


@dataclass(frozen=True)
class Code:
    """Lines to copy."""

    text: str


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what is shown.
        value: what the column is sorted by, where the text is no plain number.
        bar: share in [0, 1] drawn behind the text, or None.
    """

    text: str
    value: float | None = None
    bar: float | None = None


@dataclass(frozen=True)
class Table:
    """Rows under a header; the first column names the row, numbers stand on the right.

    Attributes:
        header: titles of the columns.
        rows: cells, or their texts.
        folded: shown only when asked for, under this title; None shows it at once.
        sorts: a click on a title sorts the rows.
        words: columns of text, on the left.
    """

    header: tuple[str, ...]
    rows: Sequence[Sequence[Cell | str]]
    folded: str | None = None
    sorts: bool = False
    words: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart: `part` of `whole`; `is_quiet` greys it."""

    name: str
    part: int
    whole: int
    is_quiet: bool = False


@dataclass(frozen=True)
class Figure:
    """A figure, as a file beside the page and as drawings in it.

    Attributes:
        title: what it shows.
        path: of the PNG, relative to the page; None where there is no such file.
        panels: SVG texts, each narrow enough for a phone.
        html: an interactive figure instead, as trusted HTML.
        bars: a bar chart instead, all bars on one scale.
    """

    title: str
    path: str | None = None
    panels: tuple[str, ...] = ()
    html: str | None = None
    bars: tuple[Bar, ...] = ()

    @property
    def widest(self) -> int:
        """The end of the bars' scale."""
        return max(bar.whole for bar in self.bars)


@dataclass(frozen=True)
class Tile:
    """One number of the headline, with what it is and how sure it is."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Tiles:
    """The numbers of the headline."""

    items: tuple[Tile, ...]


Block = Text | Listing | Notes | Code | Table | Figure | Tiles


@dataclass(frozen=True)
class Section:
    """Blocks under a title; an empty title continues the page's head."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """A whole page; sections without blocks are left out."""

    title: str
    sections: tuple[Section, ...]
