"""How do the processes that wait for the first one's decisions help it to make them?

Trial cuts, whole allocations on trial and fits of folds do not depend on each other. The first process puts pieces of
such work into the processes' common store, every other one looks there from time to time, does its own on the very
same network and samples, and leaves what it found. Nobody waits in a collective, which has a time limit. Numbers come
back digit by digit, so that plan and weights do not depend on the number of processes.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch.distributed

from snp.plan.workers import Piece, Workers
from snp.run.folder import log
from snp.run.processes import SECONDS_BETWEEN_QUESTIONS, is_several

__all__ = ["Helper", "SharedOut"]

Work = Callable[[str, Piece], Any]
_WORKS = itertools.count()  # all processes count the same


class SharedOut(Workers):
    """Pieces of work dealt out in turn to all processes of a run; made on each of them at the same point.

    Attributes:
        counts: kind of work -> pieces by process.
    """

    def __init__(self) -> None:
        self.key = f"snp/shared/{next(_WORKS)}"
        self.num_processes = torch.distributed.get_world_size() if is_several() else 1
        self.counts: dict[str, Counter[int]] = {}
        self._rounds = itertools.count()

    def of(
        self, kind: str, pieces: Sequence[Piece], work: Callable[[Piece], Any], done: Callable[[], None] = lambda: None
    ) -> list[Any]:
        """See :class:`snp.plan.workers.Workers`."""
        if self.num_processes == 1 or len(pieces) < 2:
            return super().of(kind, pieces, work, done)
        key = f"{self.key}/{next(self._rounds)}"
        shares = [list(pieces[rank :: self.num_processes]) for rank in range(self.num_processes)]
        for rank, share in enumerate(shares[1:], 1):
            store().set(f"{key}/{rank}", json.dumps([kind, share]))
        found = [super().of(kind, shares[0], work, done)]
        for rank, share in enumerate(shares[1:], 1):
            answer = _answer(f"{key}/{rank}/found")
            if isinstance(answer, str):
                log(f"note: process {rank} could not help, process 0 does its share: {answer}")
                found.append(super().of(kind, share, work, done))
                continue
            found.append(answer)
            self.counts.setdefault(kind, Counter())[rank] += len(share)
            for _ in share:
                done()
        self.counts.setdefault(kind, Counter())[0] += len(shares[0])
        return [found[number % self.num_processes][number // self.num_processes] for number in range(len(pieces))]

    def __str__(self) -> str:
        """What was shared out, kind by kind."""
        parts = (
            f"{kind} {' + '.join(str(counts[rank]) for rank in range(self.num_processes))}"
            for kind, counts in self.counts.items()
        )
        return ", ".join(parts)


class Helper:
    """What a process does while it waits for the first one: called again and again, it answers what it is asked.

    Args:
        shared: made at the same point as the first process's.
        prepare: makes what does a piece of work of some kind, when this process begins to wait.
    """

    def __init__(self, shared: SharedOut, prepare: Callable[[], Work]) -> None:
        self._key, self._prepare = shared.key, prepare
        self._work: Work | None = None
        self._failed = ""
        self._round = 0

    def __call__(self) -> None:
        """Answer one question, if there is one."""
        if self._work is None and not self._failed:
            self._failed = self._try(self._get_ready)
        key = f"{self._key}/{self._round}/{torch.distributed.get_rank()}"
        if store().check([key]):
            kind, share = json.loads(store().get(key))
            found: list[Any] = []
            failed = self._failed or self._try(lambda: found.extend(self._done(kind, share)))
            store().set(f"{key}/found", json.dumps(failed or found))
            self._round += 1

    def _get_ready(self) -> None:
        self._work = self._prepare()

    def _done(self, kind: str, share: Sequence[Piece]) -> list[Any]:
        assert self._work is not None
        return [self._work(kind, piece) for piece in share]

    @staticmethod
    def _try(work: Callable[[], None]) -> str:
        """Why it cannot be done, which the first process tells; it does the work itself then."""
        try:
            work()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""


def store() -> Any:
    """The processes' common store."""
    return torch.distributed.distributed_c10d._get_default_store()


def _answer(key: str) -> Any:
    while not store().check([key]):
        time.sleep(SECONDS_BETWEEN_QUESTIONS / 10)
    return json.loads(store().get(key))
