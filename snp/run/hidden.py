"""Which settings are secrets, and how does a run show the others?  Names of machines' keys go into no file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["HIDDEN", "without_secrets"]

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
