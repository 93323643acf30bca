"""How long do calls take, measured in turns, so that what else the machine does falls on all of them alike?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

__all__ = ["NUM_WARMUP", "Durations", "time_in_turns"]

NUM_WARMUP = 2
_MOST_ROUNDS = 10_000


@dataclass(frozen=True)
class Durations:
    """Seconds of one call, of every round, in order.

    Attributes:
        wall: by the wall clock.
        own: without the time in which other programs had the core: what the wall clock says on an idle machine. Where
            several threads or a GPU work, this cannot be told apart, and it is the wall clock's.
    """

    wall: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)


def time_in_turns(
    calls: Mapping[str, Callable[[], object]],
    *,
    num_threads: int = 1,
    min_rounds: int = 5,
    min_seconds: float = 1.0,
    device: torch.device | str = "cpu",
) -> dict[str, Durations]:
    """Time calls one after the other, round after round, without gradients.

    Args:
        calls: name -> what is timed. Each is called :data:`NUM_WARMUP` times before anything counts.
        num_threads: CPU threads inside operations, 1 or more. On a machine that does other work too, several threads
            wait for each other and can take forty times as long as one.
        min_rounds: measurements of each call at least, 1 or more.
        min_seconds: rounds go on until all calls together took this long, 0 or more.
        device: a GPU is waited for after each call.

    Returns:
        Durations by name.

    Raises:
        ValueError: a number is out of range.
    """
    _refuse_counts(num_threads, min_rounds, min_seconds)
    times = {name: Durations() for name in calls}
    by_wall = num_threads > 1 or torch.device(device).type != "cpu"
    with _threads(num_threads), torch.inference_mode():
        for call in calls.values():
            for _ in range(NUM_WARMUP):
                _timed(call, device)
        for number in range(_MOST_ROUNDS):
            if number >= min_rounds and sum(sum(found.wall) for found in times.values()) >= min_seconds:
                break
            for name, call in calls.items():
                wall, own = _timed(call, device)
                times[name].wall.append(wall)
                times[name].own.append(wall if by_wall else own)
    return times


def _refuse_counts(num_threads: int, min_rounds: int, min_seconds: float) -> None:
    if num_threads < 1 or min_rounds < 1 or not min_seconds >= 0:
        found = f"{num_threads}, {min_rounds} and {min_seconds}"
        raise ValueError(f"num_threads and min_rounds must be at least 1 and min_seconds at least 0, found {found}")


def _timed(call: Callable[[], object], device: torch.device | str) -> tuple[float, float]:
    wall, own = time.perf_counter(), time.thread_time()
    call()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - wall, time.thread_time() - own


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
