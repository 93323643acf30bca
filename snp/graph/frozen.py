"""Why may the rows of a layer not be cut, layer by layer?"""

from __future__ import annotations

from torch import Tensor

from snp.graph.tracer import Tracer
from snp.graph.units import UnitGroup

__all__ = ["reasons_of_frozen"]


def reasons_of_frozen(tracer: Tracer, groups: tuple[UnitGroup, ...]) -> dict[str, str]:
    """Reason per producer that has rows outside all groups, in execution order.

    Behind these come weights of layers that no rule of a layer met: their code computes a kernel of them on the way,
    or calls what the analysis does not know.
    """
    free = {member.tensor for group in groups for member in group.producers}
    reasons = {}
    for name in tracer.readers:
        key = (name, tracer.readings[name].output_dim)
        if name not in free and key in tracer.dims and (reason := _reason(tracer, tracer.dims[key])) is not None:
            reasons[name] = reason
    cut = {member.tensor for group in groups for member in group.members}
    for name, labels in tracer.elements.items():
        is_layer = name.endswith(".weight") and labels.ndim > 1 and name not in tracer.readings
        if is_layer and name not in cut and (reason := _reason(tracer, labels)) is not None:
            reasons[name] = reason
    return reasons


def _reason(tracer: Tracer, labels: Tensor) -> str | None:
    found = (tracer.labels.frozen_reason(label) for label in labels.unique().tolist())
    return next((reason for reason in found if reason is not None), None)
