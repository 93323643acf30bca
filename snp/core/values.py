"""What may one value be that users give, and what is wrong with it?  For what is no class of options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["path_of", "refuse_unknown_arguments"]


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


def refuse_unknown_arguments(
    function: Callable[..., Any], given: Mapping[str, Any], name: str, own: Iterable[str] = ()
) -> None:
    """A function takes the arguments that a user gives it, and needs no more of them.

    Args:
        function: what is called with them.
        given: by name.
        name: of the option that holds them, for the message.
        own: arguments that it gets from elsewhere.

    Raises:
        ValueError: it does not.
    """
    parameters = [entry for entry in inspect.signature(function).parameters.values() if entry.name not in (*own,)]
    known = [entry.name for entry in parameters if entry.kind is not entry.VAR_KEYWORD]
    takes_all = len(known) < len(parameters)
    unknown = [word for word in given if word not in known and word not in (*own,)]
    if unknown and not takes_all:
        raise ValueError(f"{name} has no {unknown[0]}; there are {', '.join(known) or 'none'}")
    for entry in parameters:
        if entry.default is entry.empty and entry.name in known and entry.name not in given:
            raise ValueError(f"{name}.{entry.name} is not given")
