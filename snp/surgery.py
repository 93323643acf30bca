"""Given a plan, what is the smaller model?  Slices of every tensor, and the numbers that modules keep about them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snp.inputs import call
from snp.plan import GroupPlan, PruningPlan
from snp.units import UnitGroup, module_of

__all__ = ["SelfCheckError", "confirm", "cut", "masked_weights", "self_check", "with_weights"]


class SelfCheckError(RuntimeError):
    """The small network does not compute what the dense network with the same units masked computes."""


def with_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the model with some parameters and buffers replaced by others of the same shape."""
    changed = copy.deepcopy(model)
    tensors = dict(changed.named_parameters(remove_duplicate=False)) | dict(changed.named_buffers())
    with torch.no_grad():
        for name, value in weights.items():
            assert tensors[name].shape == value.shape, (name, tensors[name].shape, value.shape)
            tensors[name].copy_(value)
    return changed


def masked_weights(model: nn.Module, plan: PruningPlan) -> dict[str, Tensor]:
    """Every consumer's weight with the columns of cut units set to zero: plain deletion."""
    weights: dict[str, Tensor] = {}
    for decision in plan.groups:
        for member in decision.group.consumers:
            columns = member.index[decision.cut].reshape(-1)
            if len(columns) == 0:
                continue
            if member.tensor not in weights:
                weights[member.tensor] = model.get_parameter(member.tensor).detach().clone()
            weights[member.tensor].index_fill_(member.dim, columns.to(weights[member.tensor].device), 0.0)
    return weights


def cut(model: nn.Module, plan: PruningPlan) -> nn.Module:
    """A copy of the model without the units that the plan removes.

    Raises:
        ValueError: the plan was made for another model.
    """
    size = sum(parameter.numel() for parameter in model.parameters())
    if plan.params and plan.params["dense"] != size:
        raise ValueError(
            f"the plan was made for a model of {plan.params['dense']:,} parameters, this one has {size:,}: give the "
            "dense model that the plan was made for"
        )
    small = copy.deepcopy(model)
    keep: dict[str, dict[int, Tensor]] = {}
    for (name, dim), indices in plan.removed().items():
        if len(indices):
            keep.setdefault(name, {})[dim] = indices
    tensors = dict(small.named_parameters(remove_duplicate=False)) | dict(small.named_buffers(remove_duplicate=False))
    replaced: dict[int, Tensor] = {}
    for name, dims in keep.items():
        if name not in tensors:
            raise ValueError(f"the plan names {name}, which this model does not have: it was made for another model")
        replaced[id(tensors[name])] = _without(tensors[name], dims, name)
    for name, tensor in tensors.items():
        if id(tensor) in replaced:
            _put(small, name, replaced[id(tensor)])
    for module_name in {module_of(name) for name in tensors}:
        _refresh(small.get_submodule(module_name))
    return small


def _without(tensor: Tensor, dims: Mapping[int, Tensor], name: str) -> Tensor:
    value = tensor.detach()
    for dim, removed in dims.items():
        if dim >= value.ndim or int(removed.max()) >= value.shape[dim]:
            raise ValueError(f"the plan does not fit {name} of shape {tuple(tensor.shape)}: made for another model")
        is_kept = torch.ones(value.shape[dim], dtype=torch.bool)
        is_kept[removed] = False
        value = value.index_select(dim, is_kept.nonzero().flatten().to(value.device))
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(value, requires_grad=tensor.requires_grad)
    return value


def _put(model: nn.Module, name: str, value: Tensor) -> None:
    module, leaf = model.get_submodule(module_of(name)), name.rpartition(".")[2]
    if isinstance(value, nn.Parameter):
        module.register_parameter(leaf, value)
    else:
        setattr(module, leaf, value)


def _refresh(module: nn.Module) -> None:
    """Bring the sizes that a module keeps beside its tensors in line with them."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        weight = getattr(module, "running_mean", None)  # a norm may have statistics only
    if not isinstance(weight, Tensor):
        return
    if isinstance(module, nn.modules.conv._ConvNd) and not module.transposed:
        if module.groups > 1:
            rows_per_group = module.out_channels // module.groups
            module.groups = weight.shape[0] // rows_per_group
        module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        module.num_features = weight.shape[0]
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = weight.shape[1]


def _leaves(output: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def self_check(masked: nn.Module, small: nn.Module, batch: Any, tolerance: float = 1e-3) -> float:
    """Compare the masked dense network with the small one on one batch.

    Args:
        masked: dense shapes, cut columns zero, folded weights in place; evaluation mode.
        small: the network after surgery.
        batch: inputs.
        tolerance: of the difference relative to the largest output value.

    Returns:
        Largest relative difference of any output tensor.

    Raises:
        SelfCheckError: the networks differ.
    """
    with torch.no_grad():
        try:
            wanted, found = _leaves(call(masked, batch)), _leaves(call(small, batch))
        except Exception as error:  # whatever the model's own code raises on sizes it did not expect
            raise SelfCheckError(f"the pruned network does not run: {error}") from error
    if len(wanted) != len(found):
        raise SelfCheckError(f"the number of outputs changed from {len(wanted)} to {len(found)}")
    worst = max((_difference(want, have) for want, have in zip(wanted, found, strict=True)), default=0.0)
    if worst > tolerance:
        raise SelfCheckError(
            f"the pruned network's output differs from the masked dense network's by {worst:.2e} of the largest "
            f"output (allowed {tolerance:.0e})"
        )
    return worst


def _difference(want: Tensor, have: Tensor) -> float:
    """Largest difference relative to the largest wanted value; infinite where only one of the two is finite."""
    if want.shape != have.shape:
        raise SelfCheckError(f"output shape changed from {tuple(want.shape)} to {tuple(have.shape)}")
    is_finite = torch.isfinite(want)
    same_rest = torch.equal(want[~is_finite].nan_to_num(), have[~is_finite].nan_to_num())
    if not torch.equal(is_finite, torch.isfinite(have)) or not same_rest:
        return float("inf")
    want, have = want[is_finite].double(), have[is_finite].double()
    if want.numel() == 0:
        return 0.0
    return float((want - have).abs().max()) / (float(want.abs().max()) or 1.0)


def confirm(model: nn.Module, groups: Sequence[UnitGroup], batch: Any) -> tuple[tuple[UnitGroup, ...], dict[str, str]]:
    """Try cuts of every group; drop the groups whose cut the model's own code does not bear.

    Label propagation knows which tensors belong together, not whether ``forward`` computes with sizes fixed at
    construction, or with positions among channels (shuffles, halves). So the trials cut irregular sets of different
    sizes in different groups, and every unit once. Only when a trial fails, halves of the groups are tried until the
    culprits are found.

    Returns:
        The groups that passed, and name -> reason for those that did not.
    """
    if not groups:
        return (), {}
    try:
        for second_half in (False, True):
            trial = PruningPlan(tuple(_trial(group, number, second_half) for number, group in enumerate(groups)))
            self_check(masked := with_weights(model, masked_weights(model, trial)), cut(masked, trial), batch)
    except SelfCheckError as error:
        if len(groups) == 1:
            return (), {groups[0].name: f"a trial cut failed: {error}"}
        middle = len(groups) // 2
        first, first_reasons = confirm(model, groups[:middle], batch)
        second, second_reasons = confirm(model, groups[middle:], batch)
        return first + second, first_reasons | second_reasons
    return tuple(groups), {}


def _trial(group: UnitGroup, number: int, second_half: bool) -> GroupPlan:
    """Some of the units, the others at the second trial; neighbouring groups keep different shares."""
    shuffled = torch.randperm(group.num_units, generator=torch.Generator().manual_seed(number))
    first = min(group.num_units - 1, max(1, group.num_units * (3 + number % 3) // 8))
    return GroupPlan(group, (shuffled[first:] if second_half else shuffled[:first]).sort().values)
