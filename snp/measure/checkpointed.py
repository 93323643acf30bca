"""How does a gradient come through a large network, so that the activations of one block are in memory?

Activation checkpoints (Chen et al. 2016) at the blocks: what they get is kept, and they are run again on the way back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from snp.measure.visiting import STAYS, Visits, with_forward

__all__ = ["checkpointed"]


@contextmanager
def checkpointed(model: nn.Module, blocks: Sequence[str], visits: Visits = STAYS) -> Iterator[None]:
    """Blocks that keep no activations inside the ``with`` block.

    Args:
        model: in evaluation mode.
        blocks: names of modules; none changes nothing.
        visits: where blocks visit a device, what they get is kept in main memory.
    """

    def run_again(forward: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = visits.at_rest((args, kwargs))
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    with ExitStack() as changed:
        for block in map(model.get_submodule, blocks):
            changed.enter_context(with_forward(block, partial(run_again, block.forward)))
        yield
