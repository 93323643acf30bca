"""How is one step done thousands of times on a GPU, where starting its operators takes longer than they do?

Recorded once as a CUDA graph, which is then started as a whole. A step must be the same operators on the same tensors
every time, written in place, without a look at a value. In main memory, and where one of its operators cannot be
recorded, it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache

import torch

__all__ = ["Repeated"]

# Recording takes about as long as a few steps.
_FEWEST_STEPS = 4


class Repeated:
    """A step that is recorded anew for every run, since its tensors may be others.

    Args:
        step: what is done.
        device: of its tensors.
    """

    def __init__(self, step: Callable[[], None], device: torch.device) -> None:
        self._step, self._device = step, device
        self._can_record = device.type == "cuda" and torch.cuda.is_available()

    def run(self, times: int) -> None:
        """Do it so many times, on the same tensors."""
        if times < _FEWEST_STEPS or not self._can_record:
            for _ in range(times):
                self._step()
            return
        self._step()  # what is loaded or allocated at its first call is not recorded
        graph = self._recorded()
        for _ in range(times - 1):
            self._step() if graph is None else graph.replay()
        # The graph goes, and with it the memory it works in.
        torch.cuda.current_stream(self._device).synchronize()

    def _recorded(self) -> torch.cuda.CUDAGraph | None:
        """The step, not done yet; None where one of its operators cannot be recorded."""
        graph, stream = torch.cuda.CUDAGraph(), _side_stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        try:
            with torch.cuda.stream(stream):
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    self._step()
                finally:
                    graph.capture_end()
        except RuntimeError:  # of CUDA, or of an operator that looks at its values
            self._can_record = False
            _end_failed_recording(self._device)
            return None
        torch.cuda.current_stream(self._device).wait_stream(stream)
        return graph


def _end_failed_recording(device: torch.device) -> None:
    """Record what works: a recording that failed leaves the generator of random numbers as if it went on."""
    graph, numbers = torch.cuda.CUDAGraph(), torch.zeros(1, device=device)
    with suppress(RuntimeError), torch.cuda.stream(_side_stream(device)):
        graph.capture_begin(capture_error_mode="thread_local")
        numbers.add_(1)
        graph.capture_end()
    torch.cuda.synchronize(device)


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all recordings: every stream has a workspace of its own for products of matrices."""
    return torch.cuda.Stream(device)
