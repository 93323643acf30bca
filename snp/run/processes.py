"""What must be the same on all processes of a run?  Sums over all samples; decisions and weights of the first one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch.distributed
from torch import Tensor, nn

from snp.core.sums import Sums
from snp.run.folder import is_first_process

__all__ = ["OVER_PROCESSES", "copy_from_first", "destroy_group", "from_first"]


def from_first(decide: Callable[[], str]) -> str:
    """What ``decide`` gives on the first process, on every one: last bits of a factorisation may differ between them.

    Raises:
        Exception: what ``decide`` raised, on the first process; the others end, instead of waiting for it for ever.
    """
    text, failure = "", None
    if is_first_process():
        try:
            text = decide()
        except Exception as error:
            failure = error
    text, failed = _broadcast([text, failure is not None])
    if failure is not None:
        raise failure
    if failed:
        # Quietly and with success: Lightning kills the first process when another fails, and it has yet to say why.
        destroy_group()
        sys.exit(0)
    return str(text)


class _OverProcesses(Sums):
    """Sums over the processes of a run, the same to the last bit on each."""

    def of(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor; where there is one process, the tensor itself."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            total = tensor.to("cuda") if torch.distributed.get_backend() == "nccl" else tensor.cpu()
            total = total.clone()
            torch.distributed.all_reduce(total)
            return total.to(tensor.device)
        return tensor


OVER_PROCESSES = _OverProcesses()


def copy_from_first(model: nn.Module) -> None:
    """Give every process the first one's state: running statistics of norms are those of each one's own batches."""
    (state,) = _broadcast([model.state_dict()])
    model.load_state_dict(state)


def destroy_group() -> None:
    """Leave the group of processes at the end of a run: an interpreter that ends inside one may abort."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _broadcast(values: list[Any]) -> list[Any]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(values, src=0)
    return values
