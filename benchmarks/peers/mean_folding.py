"""What do biases become when cut units are replaced by their means?  The fit of variance-based pruning."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from snp.fit.joint import kept_columns
from snp.graph.units import module_of
from snp.plan.plan import PruningPlan
from snp.plan.problem import Problem
from snp.surgery.subject import Subject
from snp.surgery.surgery import cut, masked_weights, with_weights

__all__ = ["fold_means"]


def fold_means(subject: Subject, problem: Problem, plan: PruningPlan) -> nn.Module:
    """The small network of a plan: weights as they were, and in the biases what the cut units gave on average.

    Layers without a bias get one. At the borders of padded convolutions the mean is too much, as it is in any fit of
    biases.

    Args:
        subject: the dense network.
        problem: with moments by channel (``conv_gram="channel"``).
        plan: the units that stay.
    """
    small = cut(with_weights(subject.model, masked_weights(subject.model, plan)), plan)
    removed = plan.removed()
    for name, reader in problem.readers.items():
        is_cut = torch.ones(reader.num_columns, dtype=torch.bool)
        is_cut[kept_columns(reader, plan.groups)] = False
        if not bool(is_cut.any()):
            continue
        weight = problem.weights[name].detach().double()
        weight = weight.reshape(len(weight), reader.num_columns, -1).sum(dim=2)
        shift = weight[:, is_cut] @ problem.moments[name].mean()[is_cut]
        _add_bias(small.get_submodule(module_of(name)), _without(shift, removed.get((name, 0))))
    return small


def _without(values: Tensor, removed: Tensor | None) -> Tensor:
    if removed is None:
        return values
    is_kept = torch.ones(len(values), dtype=torch.bool)
    is_kept[removed] = False
    return values[is_kept]


def _add_bias(module: nn.Module, shift: Tensor) -> None:
    bias, weight = module.bias, module.weight
    assert isinstance(weight, Tensor)
    start = torch.zeros(len(weight), dtype=weight.dtype) if bias is None else bias.detach()
    module.bias = nn.Parameter(start + shift.to(weight))
