"""How is a text written as the value of an option so that Hydra's grammar takes it, and how is it read back?"""

from __future__ import annotations

import re

__all__ = ["given_text", "override"]

# What Hydra takes for a text, whole, without quotes: but for these words, what begins with a letter or is a path.
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_/.+@%-]*")
_NO_TEXTS = ("null", "true", "false", "nan", "inf")


def override(name: str, text: str) -> str:
    """``name=text``, the text in Hydra's quotes where its grammar would read anything else without them.

    Args:
        name: of the option.
        text: any, as a path; signs and letters of it stand for themselves.
    """
    if _PLAIN.fullmatch(text) and text.lower() not in _NO_TEXTS:
        return f"{name}={text}"
    # Backslashes are doubled where a quote follows, and only there; `${` would begin an interpolation.
    inner = re.sub(r'(\\*)("|$)', lambda found: 2 * found[1] + (r"\"" if found[2] else ""), text.replace("${", r"\${"))
    return f'{name}="{inner}"'


def given_text(word: str) -> str:
    """The value of an override as Hydra will read it, where it is a text, without the quotes around it."""
    value = word.partition("=")[2].strip(" ")
    quote = value[:1]
    if quote not in ("'", '"') or len(value) < 2 or value[-1] != quote:
        return value
    return re.sub(
        rf"(\\*)({quote}|$)",
        lambda found: found[1][: len(found[1]) // 2] + found[2],
        value[1:-1],
    ).replace(r"\${", "${")
