"""What may one value be that users give, and what is wrong with it?  For what is no class of options."""

from __future__ import annotations

from pathlib import Path

__all__ = ["path_of"]


def path_of(value: object, name: str) -> str:
    """The path of a file or folder as text, also of one that is called by a whole number.

    Args:
        value: what was given.
        name: of the option, for the message.

    Raises:
        ValueError: it is no path.
    """
    if isinstance(value, str | Path) or type(value) is int:
        return str(value)
    # How a fraction was written is not known any more: 2024.10 comes as 2024.1.
    raise ValueError(f"{name} must be one path, found {value!r}; write ./NAME for a name that reads as something else")
