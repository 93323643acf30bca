"""Which cut units equal units that stay, so that these take over what they did without loss?

Least squares moves it to whatever explains the samples; from few of them, or where a layer reads every position by a
column of its own, much of that is chance. Equal weights are equal on all samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from snp.graph.units import Slice
from snp.plan.group_plan import GroupPlan
from snp.plan.plan import PruningPlan
from snp.plan.problem import Problem
from snp.settings import FitSettings
from snp.surgery.subject import Subject
from snp.surgery.surgery import named_tensors, with_weights

__all__ = ["with_equal_units_merged"]

# Energy of a difference beside a unit's own: above rounding of sums of float32 values.
_SAME = 1e-9


def with_equal_units_merged(
    subject: Subject, problem: Problem, plan: PruningPlan, settings: FitSettings
) -> tuple[Subject, Problem]:
    """The same network, in which what reads units that stay has the weights of their equals that are cut.

    Args:
        subject: the dense network; it is left as it is.
        problem: its weights, and moments that say whether units with equal weights read the same.
        plan: the units that stay.
        settings: nothing is moved where nothing is to take over.
    """
    tensors, changed = named_tensors(subject.model), dict[str, Tensor]()
    for decision in plan.groups if settings.reconstruct else ():
        cut, kept = _pairs(tensors, problem, decision)
        for member in {(one.tensor, one.dim): one for one in decision.group.consumers}.values() if len(cut) else ():
            weight = changed.get(member.tensor, tensors[member.tensor].detach())
            changed[member.tensor] = _moved(weight, member, cut, kept)
    if not changed:
        return subject, problem
    weights = {name: changed[name].cpu() if name in changed else weight for name, weight in problem.weights.items()}
    model = with_weights(subject.model, changed, share=True)
    return replace(subject, model=model), replace(problem, weights=weights)


def _pairs(tensors: Mapping[str, Tensor], problem: Problem, decision: GroupPlan) -> tuple[Tensor, Tensor]:
    """Cut units, and the unit that stays and equals each, shape [P] each."""
    group, none = decision.group, torch.zeros(0, dtype=torch.long)
    members = group.producers + group.others
    is_plain = group.kind in ("conv", "ffn") and group.num_partitions == 1
    if not is_plain or not len(decision.cut) or any(m.num_blocks > 1 for m in (*members, *group.consumers)):
        return none, none
    label = torch.zeros(group.num_units, dtype=torch.long)
    for member in members:
        label = torch.stack([label, _equal_rows(tensors[member.tensor].detach(), member)]).unique(
            dim=1, return_inverse=True
        )[1]
    first = {int(label[unit]): unit for unit in reversed(decision.kept.tolist())}
    found = [(unit, first[int(label[unit])]) for unit in decision.cut.tolist() if int(label[unit]) in first]
    if not found:
        return none, none
    cut, kept = torch.tensor(found).T
    is_read_alike = torch.stack([_read_alike(problem, member, cut, kept) for member in group.consumers]).all(dim=0)
    return cut[is_read_alike], kept[is_read_alike]


def _equal_rows(tensor: Tensor, member: Slice) -> Tensor:
    """The same number for units whose parts of a tensor are equal, shape [U]."""
    rows = tensor.movedim(member.dim, 0)[member.index.to(tensor.device)]
    rows = torch.view_as_real(rows) if rows.is_complex() else rows  # which have no order
    return rows.flatten(1).unique(dim=0, return_inverse=True)[1].cpu()


def _read_alike(problem: Problem, member: Slice, cut: Tensor, kept: Tensor) -> Tensor:
    """Were units the same in all samples, at every position, shape [P]?"""
    columns, gram = problem.readers[member.tensor].columns(member), problem.moments[member.tensor].second
    one, other = columns[cut].to(gram.device), columns[kept].to(gram.device)
    energy = gram[one, one]
    apart = energy + gram[other, other] - 2 * gram[one, other]
    return (apart.sum(dim=1) <= _SAME * energy.sum(dim=1)).cpu()


def _moved(weight: Tensor, member: Slice, cut: Tensor, kept: Tensor) -> Tensor:
    """A reader's weight with the columns of cut units added to their equals'."""
    source, to = (member.index[units].reshape(-1).to(weight.device) for units in (cut, kept))
    moved = weight.clone().index_add_(member.dim, to, weight.index_select(member.dim, source))
    return moved.index_fill_(member.dim, source, 0.0)
