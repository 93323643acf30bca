"""How long does a GPU work where it need not wait for launches?  Calls are captured as a CUDA graph and replayed.

Starting a kernel takes the CPU some microseconds. Where kernels are shorter than that, the clock counts launches, and a
smaller network is no faster by it. A captured graph starts all of its kernels at once.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch

__all__ = ["Queue", "captured", "queued"]

_WARMUP = 3
_LEAST_FREE = 0.5  # of a GPU's memory, before a capture
_QUEUED = 16  # calls of one layer, so that the launch of the whole and the wait for its end count for little


@dataclass(frozen=True, eq=False)
class _Replay:
    """A captured graph, and what its kernels write to, which must not be given to others meanwhile."""

    graph: torch.cuda.CUDAGraph
    outputs: object

    def __call__(self) -> None:
        self.graph.replay()


@dataclass(frozen=True, eq=False)
class Queue:
    """What is timed in the place of one short call: several of them at once.

    Attributes:
        call: runs all of them.
        length: how many these are.
    """

    call: Callable[[], object]
    length: int = 1


def captured(call: Callable[[], object], device: torch.device | str, repeats: int = 1) -> Callable[[], object] | None:
    """The same kernels on the same tensors, started at once.

    Args:
        call: always does the same with tensors that stay where they are.
        device: where they are.
        repeats: how often it is called within the graph.

    Returns:
        None where there are no such graphs (on a CPU), or where this call cannot be captured, with the reason logged:
        code that looks at values on the GPU waits for them, which a graph cannot.
    """
    device = torch.device(device)
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    with torch.cuda.device(device), torch.inference_mode():
        try:
            return _capture(call, repeats)
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            logging.getLogger("snp").warning(f"no CUDA graph of this pass, which is timed call by call: {reason}")
            _end_failed_capture()
            return None


def queued(call: Callable[[], object], device: torch.device | str) -> Queue:
    """Several calls at once where a GPU would spend more time on waiting than on a single one; else the call itself."""
    if torch.device(device).type != "cuda":
        return Queue(call)
    return Queue(captured(call, device, _QUEUED) or partial(_several, call), _QUEUED)


def _several(call: Callable[[], object]) -> None:
    for _ in range(_QUEUED):
        call()


def _capture(call: Callable[[], object], repeats: int) -> _Replay:
    # torch.cuda.graph always empties caches, which takes longer than most layers, and leaves its stream where it fails.
    free, total = torch.cuda.mem_get_info()
    if free < _LEAST_FREE * total:
        torch.cuda.empty_cache()  # of graphs that are gone: what they held is given back to no capture
    graph, stream = torch.cuda.CUDAGraph(), _stream(torch.cuda.current_device())
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARMUP):  # what is chosen, compiled or allocated on first use must be there by then
            call()
        torch.cuda.synchronize()
        graph.capture_begin(capture_error_mode="thread_local")  # what threads that load data do is their own affair
        try:
            for _ in range(repeats):
                outputs = call()  # those before are written over: they are done with by then
        finally:
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    return _Replay(graph, outputs)


def _end_failed_capture() -> None:
    """A capture that works, because one that failed leaves the generator of random numbers as if it went on."""
    numbers = torch.zeros(1, device="cuda")
    with contextlib.suppress(RuntimeError):
        _capture(partial(numbers.add_, 1), 1)
    torch.cuda.synchronize()


@cache
def _stream(index: int) -> torch.cuda.Stream:
    """One stream per GPU: libraries keep a work space for each that they have met."""
    return torch.cuda.Stream(index)
