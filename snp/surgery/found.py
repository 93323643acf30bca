"""What does a plan keep beside its settings that nobody asked for, because the analysis found it?"""

from __future__ import annotations

from collections.abc import Iterable

from snp.graph.untied import untied_heads
from snp.plan.plan import GroupPlan
from snp.surgery.subject import Subject
from snp.surgery.unreached import beside_cuts

__all__ = ["found_in"]


def found_in(subject: Subject, decisions: Iterable[GroupPlan]) -> dict[str, list[str]]:
    """JSON values by name; empty lists are left out.

    ``untied``: heads that are tied to no embedding any more, because a norm's weight is in them. ``unreached``: layers
    that calibration does not reach, and that could meet units that are cut.

    Args:
        subject: the dense network.
        decisions: of the plan.
    """
    cut = [decision.group for decision in decisions if len(decision.cut)]
    found = {
        "untied": sorted(untied_heads(subject.model)),
        "unreached": list(beside_cuts(subject.model, subject.unreached, cut)),
    }
    return {name: values for name, values in found.items() if values}
