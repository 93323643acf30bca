"""Which programs of one network are known already?  An export takes as long as many passes of a few samples."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snp.graph.batches import Batch
from snp.graph.exported import Exported, export, run_on, tensors_of
from snp.graph.flattened import with_tokens

__all__ = ["Exports"]


class Exports:
    """Exported programs of a network, and of others that differ from it in the values of weights only."""

    def __init__(self) -> None:
        self._known: dict[object, Exported] = {}

    def of(self, model: nn.Module, batch: Batch, device: torch.device | None = None) -> Exported:
        """The program for batches of this form and size, exported at the first time, with the tensors of a model.

        Args:
            model: in evaluation mode.
            batch: its shapes count, its values do not.
            device: where the program is run; None where the model is.
        """
        key = _form(batch), device
        if key not in self._known:
            # Weights are the asker's own: none is kept alive here.
            exported = export(model, batch)
            exported = exported if device is None else run_on(exported, device)
            self._known[key] = replace(exported, graph=with_tokens(exported.graph), tensors={})
        return replace(self._known[key], tensors=tensors_of(model))


def _form(batch: Batch) -> object:
    leaves, spec = pytree.tree_flatten((batch.args, dict(batch.kwargs)))
    parts = ((tuple(v.shape), v.dtype, v.device) if isinstance(v, Tensor) else repr(v) for v in leaves)
    return str(spec), tuple(parts)
