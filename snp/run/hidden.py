"""Which settings are secrets, and how does a run show the others?  Names of machines' keys go into no file.

Torch is not imported here: a run that is stopped while that is loaded still says by which command it goes on.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["HIDDEN", "command", "without_secrets"]

_SECRET_WORDS = {"apikey", "secret", "password", "passwd", "credential", "credentials"}
# These may be something else where they are no text.
_SECRET_TEXTS = {"key", "token"}
_LOGIN = re.compile(r"(?<=://)[^/\s@]+@")
HIDDEN = "(hidden)"


def without_secrets(value: Any, name: str = "") -> Any:
    """The same plain value with keys, tokens, passwords and logins in addresses hidden; numbers may be passwords."""
    if isinstance(value, Mapping):
        return {str(key): without_secrets(entry, str(key)) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(entry, name) for entry in value]
    if value is None or isinstance(value, bool):
        return value
    if _is_secret(name, str(value)):
        return HIDDEN
    return _LOGIN.sub("", value) if isinstance(value, str) else value


def command(words: Sequence[str]) -> str:
    """The command line as it can be typed again, secrets hidden."""
    shown = []
    for word in words:
        name, sign, value = word.partition("=")
        shown.append(f"{name}{sign}{without_secrets(value, name)}" if sign else without_secrets(word))
    program = Path(shown[0]).name if shown else ""
    start = ["python", program] if program.endswith(".py") else [program]
    if program == "__main__.py":
        start = ["python", "-m", Path(shown[0]).parent.name]
    return shlex.join([*start, *shown[1:]])


def _is_secret(name: str, value: str) -> bool:
    """Names end in what they are: a `hub_token` is one, and a `token_limit` or a `largest_token` of 4.0 is not."""
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word]
    if not words or value in ("", "null", "true", "false"):
        return False
    return words[-1] in _SECRET_WORDS or (words[-1] in _SECRET_TEXTS and not _is_number(value))


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
