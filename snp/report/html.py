"""How does a page look in a browser?  One file that asks for nothing else, at desktop and phone width."""

from __future__ import annotations

import base64
import re
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup, escape

from snp.report.document import Cell, Page

__all__ = ["to_html"]

_INLINE = ((re.compile(r"`([^`]+)`"), r"<code>\1</code>"), (re.compile(r"\*\*([^*]+)\*\*"), r"<strong>\1</strong>"))

# A number and its unit stay on one line.
_NUMBER = re.compile(r"(?<=\d) (?=%|[kMGT]i?B?\b|ms\b|MACs\b|points\b)")


def to_html(page: Page, script: str = "") -> str:
    """The text of one HTML file; texts of the page are escaped, figures are part of it.

    Args:
        page: what stands on it.
        script: JavaScript that its interactive figures need, as trusted text.
    """
    sections = [(section.title, _anchor(section.title), section.blocks) for section in page.sections if section.blocks]
    return _templates().get_template("page.html").render(title=page.title, sections=sections, script=Markup(script))


@cache
def _templates() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("snp.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"inline": _inline, "picture": _picture}
    found.tests["kind"] = lambda block, name: type(block).__name__ == name
    found.globals["cell"] = lambda cell: cell if isinstance(cell, Cell) else Cell(str(cell))
    return found


def _inline(text: str) -> Markup:
    """Escaped text with its `code` and **strong** words."""
    plain = _NUMBER.sub("\u00a0", str(escape(text)))
    for pattern, replacement in _INLINE:
        plain = pattern.sub(replacement, plain)
    return Markup(plain)


def _picture(svg: str) -> str:
    """A drawing as an address, so that names inside drawings do not meet."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _anchor(title: Any) -> str:
    return re.sub(r"[^a-z0-9]+", "-", str(title).lower()).strip("-")
