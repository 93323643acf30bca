"""Given a plan, what is the smaller model?  Slices of every tensor, and the numbers that modules keep about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from snp.graph.grouped_kernels import contracted, expanded
from snp.graph.heads import AttentionLayer
from snp.graph.modes import copy_in_modes
from snp.graph.units import Slice, module_of
from snp.plan.plan import PruningPlan
from snp.surgery.attention_fused import pick_places, resize
from snp.surgery.kept_parts import removed_of, without
from snp.surgery.module_sizes import recount, refresh
from snp.surgery.passing import without_blocks, zeroed_writers

__all__ = ["cut", "masked_weights", "named_tensors", "put", "shapes_of", "silent_rows", "with_weights"]


def with_weights(model: nn.Module, weights: Mapping[str, Tensor], *, share: bool = False) -> nn.Module:
    """A copy of the model with some parameters and buffers replaced by others of the same shape.

    With ``share`` all other tensors are the model's own, and the new ones are those given: for a copy that is looked at
    and thrown away, or a network that is too large to be there twice.
    """
    if share:
        tensors = named_tensors(model)
        memo: dict[int, Any] = {id(tensor): tensor for tensor in tensors.values()}
        for name, value in weights.items():
            assert tensors[name].shape == value.shape, (name, tensors[name].shape, value.shape)
            memo[id(tensors[name])] = _in_place_of(tensors[name], value)
        return copy_in_modes(model, memo)
    tensors = named_tensors(changed := copy_in_modes(model))
    with torch.no_grad():
        for name, value in weights.items():
            assert tensors[name].shape == value.shape, (name, tensors[name].shape, value.shape)
            tensors[name].copy_(value)
    return changed


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under all their names."""
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Of every parameter, under all its names."""
    return {name: tuple(tensor.shape) for name, tensor in model.named_parameters(remove_duplicate=False)}


def _in_place_of(old: Tensor, value: Tensor) -> Tensor:
    """The value as what the old tensor is: no copy where type, device and layout (it moves rounding) fit."""
    value = value.detach().to(old)
    value = value if value.stride() == old.stride() else torch.empty_like(old).copy_(value)
    return nn.Parameter(value, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else value


def masked_weights(model: nn.Module, plan: PruningPlan) -> dict[str, Tensor]:
    """Every consumer's weight with the columns of cut units set to zero, and zeros for removed blocks: plain deletion.

    Where queries meet keys, which no weight reads, units lose their rows, too.
    """
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    weights = zeroed_writers(model, plan.removed_blocks)
    for member, columns in _silenced(plan):
        if member.tensor not in weights:
            weights[member.tensor] = tensors[member.tensor].detach().clone()
        whole = expanded(weights[member.tensor], member.num_blocks)
        whole.index_fill_(member.dim, columns.to(whole.device), 0.0)
        weights[member.tensor] = contracted(whole, member.num_blocks)
    return weights


def _silenced(plan: PruningPlan) -> list[tuple[Slice, Tensor]]:
    """What is zero once units are masked: members and the indices."""
    return [
        (member, member.index[decision.cut].reshape(-1))
        for decision in plan.groups
        for member in (decision.group.members if decision.group.is_multiplied else decision.group.consumers)
        if len(decision.cut)
    ]


def silent_rows(plan: PruningPlan) -> dict[str, tuple[int, Tensor]]:
    """Weights and biases that are partly zero once units are masked that meet in products: dimension and indices."""
    rows: dict[tuple[str, int], list[Tensor]] = {}
    for decision in plan.groups:
        group = decision.group
        for member in group.producers + group.others if group.is_multiplied and len(decision.cut) else ():
            rows.setdefault((member.tensor, member.dim), []).append(member.index[decision.cut].reshape(-1))
    return {name: (dim, torch.cat(parts).unique()) for (name, dim), parts in rows.items()}


def cut(model: nn.Module, plan: PruningPlan, *, share: bool = False) -> nn.Module:
    """A copy of the model without the units that the plan removes.

    With ``share`` tensors that lose nothing are the model's own: for a copy that is looked at and thrown away, or a
    network that is too large to be there twice.

    Raises:
        ValueError: the plan was made for another model.
    """
    size = sum(parameter.numel() for parameter in model.parameters())
    if plan.params and plan.params["dense"] != size:
        raise ValueError(
            f"the plan was made for a model of {plan.params['dense']:,} parameters, this one has {size:,}: give the "
            "dense model that the plan was made for"
        )
    memo: dict[int, Any] = {id(tensor): tensor for tensor in named_tensors(model).values()} if share else {}
    small = copy_in_modes(model, memo)
    tensors = named_tensors(small)
    replaced: dict[int, Tensor] = {}
    blocks = plan.blocks()
    for name, dims in removed_of(plan).items():
        if name not in tensors:
            raise ValueError(f"the plan names {name}, which this model does not have: it was made for another model")
        replaced[id(tensors[name])] = without(tensors[name], dims, name, blocks)
    for name, tensor in tensors.items():
        if id(tensor) in replaced:
            put(small, name, replaced[id(tensor)])
    for module_name in {module_of(name) for name in tensors}:
        refresh(small.get_submodule(module_name))
    _recount(small, plan)
    for layer in plan.attention:
        _resize_heads(small, layer, plan)
    return without_blocks(small, plan.removed_blocks)


def _recount(small: nn.Module, plan: PruningPlan) -> None:
    for decision in plan.groups:
        for count in decision.group.counts:
            recount(small, count, len(decision.cut))


def _resize_heads(small: nn.Module, layer: AttentionLayer, plan: PruningPlan) -> None:
    """Give the module of an attention layer the numbers and the scale that fit its rows now."""
    removed = plan.removed()
    dense, sizes = layer.sizes(), layer.sizes(removed)
    if sizes == dense:
        return
    module, follows = resize(small.get_submodule(layer.module), layer, dense, sizes)
    pick_places(module, layer, removed)
    if module is not small.get_submodule(layer.module):
        parent = small.get_submodule(module_of(layer.module))
        setattr(parent, layer.module.rpartition(".")[2], module)
    elif sizes.query_size != dense.query_size and (follows or layer.implicit_scale):
        _scale_queries(small, layer, removed, (sizes.query_size / dense.query_size) ** 0.5)


def _scale_queries(
    small: nn.Module, layer: AttentionLayer, removed: Mapping[tuple[str, int], Tensor], factor: float
) -> None:
    name, dim = layer.query.tensor, layer.query.dim
    gone = removed.get((name, dim), torch.empty(0, dtype=torch.int64))
    rows = layer.query.index.unique()
    rows = rows[~torch.isin(rows, gone)]
    rows = rows - torch.searchsorted(gone, rows)
    with torch.no_grad():
        # Fused projections of PyTorch's own attention are called in_proj_weight and in_proj_bias.
        for tensor in _tensors_of_layer(small, name):
            part = tensor.movedim(dim if tensor.ndim > 1 else 0, 0)
            part[rows.to(tensor.device)] *= factor


def _tensors_of_layer(model: nn.Module, weight: str) -> list[Tensor]:
    """A weight and the bias beside it, if there is one."""
    tensors = named_tensors(model)
    bias = f"{weight.removesuffix('weight')}bias"
    return [tensors[name] for name in (weight, bias) if name in tensors]


def put(model: nn.Module, name: str, value: Tensor) -> None:
    """Let a parameter or a buffer be another tensor."""
    module, leaf = model.get_submodule(module_of(name)), name.rpartition(".")[2]
    if isinstance(value, nn.Parameter):
        module.register_parameter(leaf, value)
    else:
        setattr(module, leaf, value)
