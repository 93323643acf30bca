"""Does the small network run, and compute the same, where the dense one is trained?

Auxiliary heads, stochastic paths and raw maps are there in training only, and no analysis of the network as it is
evaluated sees them. What a cut breaks there is left alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snp.core.precision import wider
from snp.graph.batches import Batch
from snp.plan.plan import PruningPlan
from snp.surgery.call_trace import CallTrace, called_modules
from snp.surgery.checks import SelfCheckError, compared
from snp.surgery.recorded import kept_inputs, largest_difference, record

__all__ = ["Training", "called_in_training", "training_of"]

# Of the spread: normalisation by the statistics of two samples lets rounding grow. What a cut breaks in training only
# is a head or a path as a whole; the network as it is evaluated is held to far less.
_TOLERANCE = 1e-3
_ROUNDING = 1e-15  # of inputs in double precision, relative to their values


@dataclass(frozen=True)
class Training:
    """What the dense network does with a batch in training mode.

    Attributes:
        runs: it runs without labels, so that smaller ones can be held to it.
        repeats: it computes the same under every seed.
        differs: it calls other functions than where it is evaluated, or with other sizes.
    """

    runs: bool
    repeats: bool = False
    differs: bool = True

    def check(self, masked: nn.Module, small: nn.Module, batch: Batch, plan: PruningPlan) -> None:
        """One pass of the small network in training mode, beside that of the masked dense one where it repeats.

        What calls the same functions in both modes computes alike in both, so that the comparison as it is evaluated
        stands for both. Where rounding alone moves the network by as much (layers normalised by two samples, one upon
        the other), a comparison says nothing.

        Raises:
            SelfCheckError: the small network does not run, or differs.
        """
        if not self.runs:
            return
        try:
            record(_in_training(small), batch, {}, in_double=False)
        except Exception as error:  # whatever the model's own code raises on sizes it did not expect
            raise SelfCheckError(f"the pruned network does not run in training mode: {error}") from error
        if not self.repeats or not self.differs:
            return
        inputs = kept_inputs(masked, plan)
        difference, in_double = compared(masked, small, batch, inputs, _in_training)
        if not difference.size <= _TOLERANCE and not (in_double and _moves_with_rounding(masked, batch, inputs)):
            raise SelfCheckError(
                f"in training mode the pruned network differs from the masked dense network at {difference.place}, by "
                f"{difference.size:.2e} of the spread"
            )


def training_of(model: nn.Module, batch: Batch) -> Training:
    """Try the dense network in training mode, under two seeds; it is not changed."""
    trained, evaluated = CallTrace(), CallTrace()
    try:
        in_training = _in_training(model)
        with trained:
            first = record(in_training, batch, {}, in_double=False, seed=0)
        second = record(_in_training(model), batch, {}, in_double=False, seed=1)
    except Exception:
        return Training(runs=False)  # it wants labels, or more samples
    with evaluated:
        outputs = record(model, batch, {}, in_double=False).outputs
    same = trained.calls == evaluated.calls and [o.shape for o in first.outputs] == [o.shape for o in outputs]
    return Training(runs=True, repeats=largest_difference(first, second).size == 0.0, differs=not same)


def called_in_training(model: nn.Module, batch: Batch) -> set[str]:
    """Names of the modules that the dense network calls in training mode; none where it does not run without labels."""
    in_training = _in_training(model)
    try:
        with torch.no_grad(), called_modules(in_training) as called:
            batch.call(in_training)
    except Exception:
        return set()  # it wants labels, or more samples
    return called


def _moves_with_rounding(model: nn.Module, batch: Batch, names: Iterable[str]) -> bool:
    """Do inputs that differ by a few units in the last place of double precision give other results in training?"""
    generator, everything = torch.Generator().manual_seed(0), dict.fromkeys(names)

    def nudged(values: Tensor) -> Tensor:
        noise = torch.randn(values.shape, generator=generator, dtype=torch.float64).to(values.device)
        return values.double() * (1 + _ROUNDING * noise) if values.is_floating_point() else values

    found = [
        record(_in_training(model, True), inputs, everything, in_double=True)
        for inputs in (batch, batch.mapped(nudged))
    ]
    return not largest_difference(*found).size <= _TOLERANCE


def _in_training(model: nn.Module, in_double: bool = False) -> nn.Module:
    """The network in training mode with its own parameters, and with statistics of its own that training may move."""
    memo: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    found = copy.deepcopy(model, memo).train()
    for module in found.modules() if in_double else ():
        for name, buffer in module.named_buffers(recurse=False):
            if torch.is_floating_point(buffer):
                setattr(module, name, wider(buffer))
    return found
