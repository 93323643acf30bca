"""How does a page look in Markdown?"""

from __future__ import annotations

from collections.abc import Sequence

from snp.plan.table import markdown_table
from snp.report.document import Block, Cell, Code, Figure, Listing, Notes, Page, Table, Text, Tiles

__all__ = ["to_markdown"]


def to_markdown(page: Page) -> str:
    """The text of a page, with one line break at its end."""
    parts = [f"# {page.title}"]
    for section in page.sections:
        blocks = [text for block in section.blocks if (text := _block(block))]
        if blocks:
            parts += ([f"## {section.title}"] if section.title else []) + blocks
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    match block:
        case Text(text):
            return text
        case Listing(items):
            return "\n".join(f"- {item}" for item in items)
        case Notes(items, are_warnings):
            word = "**Warning:** " if are_warnings else ""
            return "\n>\n".join(f"> {word}{item}" for item in items)
        case Code(text):
            return f"```\n{text}\n```"
        case Table():
            return _table(block)
        case Figure(title, path):
            return f"![{title}]({path})" if path else ""
        case Tiles(items):
            rows = [(tile.label, tile.value, tile.detail) for tile in items]
            return _table(Table(("", "", ""), rows, words=(0, 2)))
    raise AssertionError(f"a block of another kind: {block}")


def _table(table: Table) -> str:
    """Numbers stand on the right, words on the left."""
    rows = (_texts(row) for row in table.rows)
    text = "\n".join(markdown_table(_texts(table.header), rows, table.words, is_padded=False))
    return f"<details><summary>{table.folded}</summary>\n\n{text}\n\n</details>" if table.folded else text


def _texts(row: Sequence[Cell | str]) -> list[str]:
    return [cell.text if isinstance(cell, Cell) else str(cell) for cell in row]
