"""Does the small network compute what the dense network with the same units masked computes?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from snp.graph.batches import Batch
from snp.graph.modes import copy_in_modes
from snp.plan.plan import PruningPlan
from snp.surgery.layer_lists import names_without
from snp.surgery.recorded import Difference, Recording, kept_inputs, largest_difference, record

__all__ = ["TOLERANCE", "SelfCheckError", "allowed", "compared", "runs", "self_check"]

# Of a difference in double precision, relative to the spread of its channel.
TOLERANCE = 1e-6
# Where a network cannot be computed in double precision, or cutting rounds weights anew: the power of its own
# precision. A layer that gets a wrong channel errs by about that channel's spread.
_OWN_PRECISION = 0.5


class SelfCheckError(RuntimeError):
    """The small network does not compute what the dense network with the same units masked computes."""


def self_check(
    masked: nn.Module, small: nn.Module, batch: Batch, plan: PruningPlan | None = None, tolerance: float = TOLERANCE
) -> float:
    """Compare the masked dense network with the small one on one batch.

    Sums of fewer terms round differently, and a deep network may let rounding grow until outputs have little in
    common. So both are computed in double precision: rounding all but vanishes there, a unit too much or too few does
    not. Outputs are compared channel by channel, each relative to its own spread, and with a plan also what every
    layer gets, so that no scale and no zero weight behind an error hides it. Networks that are random in evaluation
    are computed under one seed.

    Args:
        masked: dense shapes, cut columns zero, folded weights in place; evaluation mode.
        small: the network after surgery.
        batch: inputs.
        plan: what was cut; without one the networks have the same layers, and outputs alone are compared.
        tolerance: of the difference relative to the spread of its channel.

    Returns:
        Largest difference relative to the spread of its channel.

    Raises:
        SelfCheckError: the networks differ, or the small one does not run.
    """
    runs(small, batch)
    inputs: Mapping[str, Tensor | None] = {} if plan is None else kept_inputs(masked, plan)
    names = {} if plan is None else names_without(masked, plan.removed_blocks)
    found, in_double = compared(masked, small, batch, inputs, names=names)
    tolerance = max(tolerance, allowed(small, plan, in_double=in_double))
    if not found.size <= tolerance:
        raise SelfCheckError(
            f"the pruned network differs from the masked dense network at {found.place}, by {found.size:.2e} of the "
            f"spread (allowed {tolerance:.0e})" + (" in double precision" if in_double else "")
        )
    return found.size


def allowed(small: nn.Module, plan: PruningPlan | None, *, in_double: bool) -> float:
    """What may differ, relative to the spread of a channel."""
    is_exact = in_double and (plan is None or not _scales_queries(plan))
    return TOLERANCE if is_exact else _precision(small) ** _OWN_PRECISION


def _scales_queries(plan: PruningPlan) -> bool:
    """Are there new weights, rounded as all weights are, beside those that are left?"""
    removed = plan.removed()
    return any(layer.sizes(removed).query_size != layer.sizes().query_size for layer in plan.attention)


def _precision(model: nn.Module) -> float:
    """Distance of one from the next number, in the coarsest of the weights' precisions."""
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()} or {torch.float32}
    return max(torch.finfo(kind).eps for kind in kinds)


def runs(small: nn.Module, batch: Batch) -> Recording:
    """The small network in its own precision.

    Raises:
        SelfCheckError: it does not run.
    """
    try:
        return record(small, batch, {}, in_double=False)
    except Exception as error:  # whatever the model's own code raises on sizes it did not expect
        raise SelfCheckError(f"the pruned network does not run: {error}") from error


def compared(
    masked: nn.Module,
    small: nn.Module,
    batch: Batch,
    inputs: Mapping[str, Tensor | None],
    prepared: Callable[[nn.Module, bool], nn.Module] = lambda model, in_double: model,
    names: Mapping[str, str] = {},
) -> tuple[Difference, bool]:
    """The largest difference, and was it found in double precision, not in the networks' own?

    Args:
        masked: as for :func:`self_check`.
        small: likewise.
        batch: likewise.
        inputs: from :func:`snp.surgery.recorded.kept_inputs`.
        prepared: (network, in double precision) -> the network that is run.
        names: of modules in the masked network -> in the small one, where these differ.
    """

    def of_small(network: nn.Module, in_double: bool) -> Recording:
        there = {name: names.get(name, name) for name in inputs}
        found = record(prepared(network, in_double), batch, dict.fromkeys(there.values()), in_double=in_double)
        return Recording(
            found.outputs, {name: found.inputs[other] for name, other in there.items() if other in found.inputs}
        )

    for widened in (lambda model: model, lambda model: copy_in_modes(model).double()):
        try:
            wanted = record(prepared(widened(masked), True), batch, inputs, in_double=True)
            found = of_small(widened(small), True)
        except Exception:
            continue  # operators without double precision, or no memory for it
        return largest_difference(wanted, found), True
    wanted = record(prepared(masked, False), batch, inputs, in_double=False)
    found = of_small(small, False)
    return largest_difference(wanted, found), False
