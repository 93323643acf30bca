"""What happens when a run is told to stop?  It ends at once, with the status shells expect, and says how to go on."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stopped", "stop", "stoppable"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """The process was told to stop; no part of a run may take it for an error of its own.

    Attributes:
        name: of the signal.
        status: of the process, 128 and the number of the signal.
        go_on: the command that goes on where this process was stopped; empty before any work.
    """

    def __init__(self, number: int) -> None:
        self.name = signal.Signals(number).name
        self.status = 128 + number
        self.go_on = ""
        super().__init__(self.name)


def stop(number: int, frame: FrameType | None) -> None:
    """The signal handler."""
    for other in _SIGNALS:  # whoever asks twice does not want to wait
        signal.signal(other, signal.SIG_DFL)
    raise Stopped(number)


@contextmanager
def stoppable(is_first: Callable[[], bool]) -> Iterator[None]:
    """While this lasts SIGINT and SIGTERM end the process, with 130 or 143.

    Args:
        is_first: is this the process that speaks? Others end quietly and with success, since Lightning kills the first
            one when another fails, and that would hide its status.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    except Stopped as told:
        if not is_first():
            sys.exit(0)
        sys.stdout.flush()
        further = f"; to go on: {told.go_on}" if told.go_on else " before any work"
        print(f"\nstopped by {told.name}{further}", file=sys.stderr, flush=True)
        sys.exit(told.status)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
