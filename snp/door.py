"""What does a user see when something they asked for cannot be done?  One sentence, no stack trace."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.utilities.exceptions import MisconfigurationException

__all__ = ["guarded"]

P = ParamSpec("P")
R = TypeVar("R")

_USER_MISTAKES = (ValueError, OSError, MisconfigurationException, OmegaConfBaseException)


def guarded(function: Callable[P, R]) -> Callable[P, R]:
    """Turn a user's mistake into one line on standard error and exit status 2.

    ``HYDRA_FULL_ERROR=1`` shows the stack trace; errors that are not a user's are shown with theirs in any case.
    """

    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            mistake = next((cause for cause in _causes(error) if isinstance(cause, _USER_MISTAKES)), None)
            if mistake is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            sys.stdout.flush()
            print(f"error: {_one_line(mistake)}", file=sys.stderr, flush=True)
            sys.exit(2)

    return inner


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The innermost cause that was named with ``raise ... from`` last: what wraps a mistake comes first."""
    chain: list[BaseException] = []
    while error is not None:
        chain.append(error)
        error = error.__cause__ if type(error).__name__ == "InstantiationException" else None
    yield from reversed(chain)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
