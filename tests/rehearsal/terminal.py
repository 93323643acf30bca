"""What does a command print on a terminal?  Progress bars show themselves nowhere else."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["on_a_terminal"]


def on_a_terminal(words: Sequence[str], cwd: Path, variables: Mapping[str, str], seconds: float) -> tuple[int, str]:
    """Exit status and everything printed, with a pseudo-terminal in place of both streams.

    Raises:
        AssertionError: the command takes longer; it is ended.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        words, cwd=cwd, env={**variables, "TERM": "xterm", "COLUMNS": "160"}, stdin=subprocess.DEVNULL, stdout=theirs,
        stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    ends, printed = time.monotonic() + seconds, bytearray()
    try:
        while time.monotonic() < ends:
            ready, _, _ = select.select([ours], [], [], 1)
            if ready and not (piece := _read(ours)):
                return process.wait(timeout=30), printed.decode(errors="replace")
            printed += piece if ready else b""
        raise AssertionError(f"{' '.join(words)} did not end within {seconds} s:\n{printed[-3000:].decode()}")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
        process.wait()
        os.close(ours)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # nobody has the other end open any more
        return b""
