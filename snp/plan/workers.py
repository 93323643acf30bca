"""Who does pieces of work that do not depend on each other?  Here one process does all of them, one after the other.

Pieces and what they give are JSON values, so that they can be asked of other processes and are the same to the bit
wherever they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["ONE_WORKER", "Piece", "Workers"]

Piece = dict[str, Any]


class Workers:
    """One process; a subclass whose :meth:`of` asks others shares work out."""

    num_processes = 1

    def of(
        self, kind: str, pieces: Sequence[Piece], work: Callable[[Piece], Any], done: Callable[[], None] = lambda: None
    ) -> list[Any]:
        """What every piece gives, in their order.

        Args:
            kind: of the work, by which others know it.
            pieces: JSON objects.
            work: does one here; gives a JSON value.
            done: is told of every piece.
        """
        found = []
        for piece in pieces:
            found.append(work(piece))
            done()
        return found


ONE_WORKER = Workers()
