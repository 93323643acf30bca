"""How long do calls take, measured in turns, so that what else the machine does falls on all of them alike?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

__all__ = ["NUM_WARMUP", "time_in_turns"]

NUM_WARMUP = 2
_MOST_ROUNDS = 10_000


def time_in_turns(
    calls: Mapping[str, Callable[[], object]],
    *,
    num_threads: int = 1,
    min_rounds: int = 5,
    min_seconds: float = 1.0,
    device: torch.device | str = "cpu",
) -> dict[str, list[float]]:
    """Time calls one after the other, round after round, without gradients.

    Args:
        calls: name -> what is timed. Each is called :data:`NUM_WARMUP` times before anything counts.
        num_threads: CPU threads inside operations, 1 or more. On a machine that does other work too, several threads
            wait for each other and can take forty times as long as one.
        min_rounds: measurements of each call at least, 1 or more.
        min_seconds: rounds go on until all calls together took this long, 0 or more.
        device: a GPU is waited for after each call.

    Returns:
        Seconds of every round, in order, by name.

    Raises:
        ValueError: a number is out of range.
    """
    if num_threads < 1 or min_rounds < 1 or not min_seconds >= 0:
        found = f"{num_threads}, {min_rounds} and {min_seconds}"
        raise ValueError(f"num_threads and min_rounds must be at least 1 and min_seconds at least 0, found {found}")
    times: dict[str, list[float]] = {name: [] for name in calls}
    with _threads(num_threads), torch.inference_mode():
        for call in calls.values():
            for _ in range(NUM_WARMUP):
                _timed(call, device)
        for number in range(_MOST_ROUNDS):
            if number >= min_rounds and sum(map(sum, times.values())) >= min_seconds:
                break
            for name, call in calls.items():
                times[name].append(_timed(call, device))
    return times


def _timed(call: Callable[[], object], device: torch.device | str) -> float:
    started = time.perf_counter()
    call()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
