"""Which settings are secrets, and how does a run show the others?  Names of machines' keys go into no file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["HIDDEN", "without_secrets"]

_SECRET_WORDS = {"key", "apikey", "token", "secret", "password", "passwd", "credential", "credentials"}
_LOGIN = re.compile(r"(?<=://)[^/\s@]+@")
HIDDEN = "(hidden)"


def without_secrets(value: Any, name: str = "") -> Any:
    """The same plain value with keys, tokens, passwords and logins in addresses hidden; numbers are none of them."""
    if isinstance(value, Mapping):
        return {str(key): without_secrets(entry, str(key)) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(entry, name) for entry in value]
    if not isinstance(value, str):
        return value
    return HIDDEN if _is_secret(name, value) else _LOGIN.sub("", value)


def _is_secret(name: str, value: str) -> bool:
    """Names end in what they are: a `hub_token` is one, and a `token_limit` or a `largest_token` of 4.0 is not."""
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word]
    return bool(words) and words[-1] in _SECRET_WORDS and _says_something(value)


def _says_something(value: str) -> bool:
    """Is it more than a number, or one of the words for nothing?"""
    try:
        float(value)
    except ValueError:
        return value not in ("", "null", "true", "false")
    return False
