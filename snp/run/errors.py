"""What does a user see when something they asked for cannot be done?  One sentence, no stack trace."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

__all__ = ["command_line", "guarded", "mistake", "say"]

P = ParamSpec("P")
R = TypeVar("R")

# Of Lightning and OmegaConf: by name, since importing them takes the seconds in which a refusal should be there.
_MISTAKES_ELSEWHERE = {"MisconfigurationException", "OmegaConfBaseException"}


def guarded(function: Callable[P, R]) -> Callable[P, R]:
    """Turn a user's mistake into one line on standard error and exit status 2.

    ``HYDRA_FULL_ERROR=1`` shows the stack trace; errors that are not a user's are shown with theirs in any case.
    """

    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if (told := mistake(error)) is None:
                raise
            say(told)
            sys.exit(2)

    return inner


def mistake(error: Exception) -> str | None:
    """The sentence for a user who made a mistake; None for other errors, and for all that are wanted in full."""
    found = next((cause for cause in _causes(error) if _is_mistake(cause)), None)
    return None if found is None or os.environ.get("HYDRA_FULL_ERROR") == "1" else _one_line(found)


def say(told: str) -> None:
    """What went wrong, on standard error, behind all that was printed before."""
    sys.stdout.flush()
    print(f"error: {told}", file=sys.stderr, flush=True)


@contextmanager
def command_line(refusal: type[Exception]) -> Iterator[None]:
    """Exit status 2 for options that Hydra refuses, too; it has said why by then, but exits with 1.

    Args:
        refusal: base class of what Hydra raises.
    """
    try:
        yield
    except SystemExit as ending:
        if ending.code == 1 and isinstance(ending.__context__, refusal):
            sys.exit(2)
        raise


def _is_mistake(error: BaseException) -> bool:
    # A value of a wrong type ends in a TypeError inside a constructor, and this wrapper names the group of options.
    is_elsewhere = any(kind.__name__ in _MISTAKES_ELSEWHERE for kind in type(error).__mro__)
    return isinstance(error, ValueError | OSError) or is_elsewhere or _wraps_type_error(error)


def _wraps_type_error(error: BaseException) -> bool:
    return type(error).__name__ == "InstantiationException" and isinstance(error.__cause__, TypeError)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The innermost cause that was named with ``raise ... from`` last: what wraps a mistake comes first."""
    chain: list[BaseException] = []
    while error is not None:
        chain.append(error)
        error = error.__cause__ if type(error).__name__ == "InstantiationException" else None
    yield from reversed(chain)


def _one_line(error: BaseException) -> str:
    if type(error).__name__ == "MissingMandatoryValue":
        key = getattr(error, "full_key", "an option")
        return f"{key} is not set: give {key}=..."
    text = str(error)
    if "Original Traceback (most recent call last)" in text:  # of a process that loads data: what it raised comes last
        text = text.strip().splitlines()[-1].partition(": ")[2] or text
    return " ".join(text.split())
