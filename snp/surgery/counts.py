"""Are a plan's numbers those of the networks?  Counted once more while they run, and from their own tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from snp.graph.batches import Batch
from snp.graph.counting import macs_of_batch
from snp.measure.readers import Reader
from snp.measure.taps import Taps
from snp.plan.costs import CostModel
from snp.plan.plan import PruningPlan
from snp.surgery.checks import SelfCheckError

__all__ = ["check_counts", "refuse_uncounted"]

_ROUNDING = 1e-4  # of the dense count: costs of heads are shared out in whole numbers


def refuse_uncounted(model: nn.Module, costs: CostModel, readers: Mapping[str, Reader], example: Batch) -> None:
    """Does the dense network take what the analysis says?  Asked before anything is measured, by one pass.

    Args:
        model: in evaluation mode.
        costs: of the model.
        readers: weight name -> the layer, of those that will be measured.
        example: one or two samples.

    Raises:
        ValueError: it takes more or less, as where its code computes otherwise while it is exported, or a layer is
            called where nobody sees what it reads.
    """
    planned, name = {"dense": costs.macs(costs.dense)}, "dense"
    found = _macs_beside(planned, name, model, example)
    if not _agree(planned, name, found):
        # Layers inside a transform of functions are not counted, and looking at them says so.
        with torch.no_grad(), Taps(model, readers, before=lambda *_: None):
            example.call(model)
        raise ValueError(
            f"model: the analysis of {type(model).__name__} sees {planned[name]:,} multiply-accumulates per sample, "
            f"and {found:,} are counted as it runs, so that no budget can be promised: its code computes otherwise "
            "while it is exported, or some layer costs what the analysis does not see. Prune a module without that part"
        )


def check_counts(dense: nn.Module, small: nn.Module, batch: Batch, plan: PruningPlan) -> None:
    """Compare the plan's numbers with an independent count; a plan without numbers promises nothing.

    Args:
        dense: in evaluation mode.
        small: the network after surgery, in evaluation mode.
        batch: that the plan was made for.
        plan: with ``macs`` and ``params``.

    Raises:
        SelfCheckError: a number is not that of the network, so a budget may not be met.
    """
    for name, model in (("dense", dense), ("pruned", small)):
        num_params = sum(parameter.numel() for parameter in model.parameters())
        if plan.params and not _agree(plan.params, name, num_params):
            raise _differs(name, "parameters", plan.params[name], num_params)
        if plan.macs and not _agree(plan.macs, name, found := _macs_beside(plan.macs, name, model, batch)):
            raise _differs(name, "multiply-accumulates", plan.macs[name], found)


def _macs_beside(planned: Mapping[str, int], name: str, model: nn.Module, batch: Batch) -> int:
    """Multiply-accumulates per sample; a second pass is made where those of the first are not the planned ones."""
    found = macs_of_batch(model, batch)
    return found if _agree(planned, name, found) else _with_what_no_sample_moves(model, batch)


def _agree(planned: Mapping[str, int], name: str, found: int) -> bool:
    return abs(planned[name] - found) <= max(1, _ROUNDING * planned["dense"])


def _with_what_no_sample_moves(model: nn.Module, batch: Batch) -> int:
    """Per sample; what twice the samples do not make dearer, as a table of position biases, counts for each whole."""
    once, twice = (size * macs_of_batch(model, batch.repeated(size)) for size in (batch.size, 2 * batch.size))
    per_sample = (twice - once) // batch.size
    return once - (batch.size - 1) * per_sample


def _differs(name: str, what: str, planned: int, found: int) -> SelfCheckError:
    return SelfCheckError(
        f"the plan says {planned:,} {what} for the {name} network, and {found:,} are counted: some layer costs what "
        "the analysis does not see (snp.inspect lists the layers), so the budget is not what it seems"
    )
