"""Which program does PyTorch make of a network?"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator

import torch
import torch.fx.config as tracing
from torch import nn

from snp.graph.batches import Batch
from snp.graph.inlined import inline_gradient_modes

__all__ = ["program_of"]


def program_of(model: nn.Module, batch: Batch) -> torch.export.ExportedProgram:
    """The exported program of a network in evaluation mode."""
    said = io.StringIO()
    # Where export fails, PyTorch prints the whole graph so far, which tells a user nothing.
    with warnings.catch_warnings(), contextlib.redirect_stderr(said), _without_stack_traces():
        # Recurrent layers keep their weights in a list, too; PyTorch knows the parameters behind it.
        warnings.filterwarnings("ignore", "The tensor attribute.* assigned during export")
        program = torch.export.export(model, batch.args, dict(batch.kwargs), strict=False)
    sys.stderr.write(said.getvalue())
    inline_gradient_modes(program)
    return program


@contextlib.contextmanager
def _without_stack_traces() -> Iterator[None]:
    """Nodes do not note which line made them: nobody reads it here, and it takes a tenth of an export.

    PyTorch that does not know the switch yet notes it all the same.
    """
    switch = "do_not_emit_stack_traces"
    if not hasattr(tracing, switch):
        yield
        return
    before = getattr(tracing, switch)
    setattr(tracing, switch, True)
    try:
        yield
    finally:
        setattr(tracing, switch, before)
