"""What must be the same on all processes of a run?  Sums over all samples; decisions and weights of the first one."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import torch.distributed
from torch import Tensor, nn

from snp.core.sums import Sums
from snp.run.folder import is_first_process

__all__ = [
    "OVER_PROCESSES",
    "SECONDS_BETWEEN_QUESTIONS",
    "agreed",
    "copy_from_first",
    "destroy_group",
    "from_first",
    "is_several",
    "on_first",
    "text_from_first",
]

T = TypeVar("T")

SECONDS_BETWEEN_QUESTIONS = 0.1
_WORKS = itertools.count()  # all processes count the same


def on_first(work: Callable[[], T], meanwhile: Callable[[], None] = lambda: None) -> T | None:
    """What ``work`` gives, done by the first process alone; None on the others, once it is done.

    The others ask the processes' common store from time to time. A collective would end with an error where the work
    takes longer than the time limit of their group.

    Args:
        work: of the first process.
        meanwhile: what the others do between two questions.

    Raises:
        Exception: what ``work`` raised, on the first process; the others end, instead of waiting for it for ever.
    """
    if not is_several():
        return work()
    store, key = torch.distributed.distributed_c10d._get_default_store(), f"snp/{next(_WORKS)}"
    if is_first_process():
        try:
            found = work()
        except BaseException:
            store.set(key, "failed")
            raise
        store.set(key, "done")
        return found
    while not store.check([key]):
        meanwhile()
        time.sleep(SECONDS_BETWEEN_QUESTIONS)
    if store.get(key) == b"failed":
        # Quietly and with success: Lightning kills the first process when another fails, and it has yet to say why.
        destroy_group()
        sys.exit(0)
    return None


def text_from_first(text: str) -> str:
    """The first process's text, on every one."""
    if not is_several():
        return text
    data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)
    size = torch.tensor([len(data)])
    _copy_from_first(size)
    found = data if is_first_process() else torch.empty(int(size), dtype=torch.uint8)
    _copy_from_first(found)
    return found.numpy().tobytes().decode()


def from_first(decide: Callable[[], str]) -> str:
    """What ``decide`` gives on the first process, on every one: last bits of a factorisation may differ between them.

    Raises:
        Exception: see :func:`on_first`.
    """
    return text_from_first(on_first(decide) or "")


def agreed(holds: bool) -> bool:
    """Does it hold on every process?  What only some of them find on disk is of no use."""
    return OVER_PROCESSES.number(float(holds)) == OVER_PROCESSES.num_processes


class _OverProcesses(Sums):
    """Sums over the processes of a run, the same to the last bit on each."""

    def of(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor; where there is one process, the tensor itself."""
        if is_several():
            total = tensor.to(_device(), copy=True)
            torch.distributed.all_reduce(total)
            return total.to(tensor.device)
        return tensor


OVER_PROCESSES = _OverProcesses()


def copy_from_first(model: nn.Module) -> None:
    """Give every process the first one's state: running statistics of norms are those of each one's own batches."""
    if is_several():
        for entry in model.state_dict().values():
            if isinstance(entry, Tensor):
                _copy_from_first(entry)


def _copy_from_first(tensor: Tensor) -> None:
    """Write the first process's values over a tensor of the same shape, byte for byte."""
    data = tensor.detach().reshape(-1).contiguous().view(torch.uint8).to(_device())
    if len(data):
        torch.distributed.broadcast(data, src=0)
        tensor.detach().copy_(data.to(tensor.device).view(tensor.dtype).reshape(tensor.shape))


def destroy_group() -> None:
    """Leave the group of processes at the end of a run: an interpreter that ends inside one may abort."""
    if is_several():
        torch.distributed.destroy_process_group()


def is_several() -> bool:
    """Does the run have more than one process, which know each other?"""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _device() -> str:
    """Where tensors lie that the processes exchange."""
    return "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
