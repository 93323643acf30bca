"""From ``plan.json`` and the small network's tensors: which dense network computes the same?

Every tensor of the small network is put where the plan says that it was. What the plan cut gets random values, and the
columns that read it are zero. Nothing here comes from the package: a plan is read as the text that it is.
"""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fuzzing.attention import Attention
from fuzzing.networks import network

__all__ = ["Plan", "masked_dense", "owned", "plain_dense", "put_back", "tensors_of"]

MULTIPLIED = ("qk", "dims")  # units that meet each other in products


class Plan:
    """What a plan's text says.

    Attributes:
        text: the parsed JSON.
        removed: indices that go, by tensor and dimension.
        blocks: groups of the grouped convolutions that lose columns.
        silent: indices that must be zero for the cut units to be silent, by tensor and dimension.
    """

    def __init__(self, path: Path) -> None:
        self.text = json.loads(path.read_text())
        self.blocks: dict[str, int] = {}
        removed: dict[tuple[str, int], set[int]] = defaultdict(set)
        silent: dict[tuple[str, int], set[int]] = defaultdict(set)
        for group in self.text["groups"]:
            kept = set(group["kept"])
            gone = [unit for unit in range(group["num_units"]) if unit not in kept]
            for role in ("producers", "consumers", "others"):
                for member in group[role]:
                    key = (member["tensor"], member["dim"])
                    indices = {index for unit in gone for index in owned(member, unit)}
                    removed[key] |= indices
                    if role == "consumers" or group["kind"] in MULTIPLIED:
                        silent[key] |= indices
                    if member.get("num_blocks", 1) > 1:
                        self.blocks[member["tensor"]] = member["num_blocks"]
        self.removed = {key: sorted(indices) for key, indices in removed.items() if indices}
        self.silent = {key: sorted(indices) for key, indices in silent.items() if indices}

    @property
    def num_cut(self) -> int:
        """Units that go."""
        return sum(group["num_units"] - len(group["kept"]) for group in self.text["groups"])


def owned(member: dict[str, Any], unit: int) -> list[int]:
    """Indices that a unit owns of a tensor."""
    if "index" in member:
        return list(member["index"][unit])
    start = member["start"] + unit * member["stride"]
    return list(range(start, start + member["width"]))


class WrittenAttention(nn.Module):
    """PyTorch's attention of tokens among themselves, its packed weights as layers."""

    def __init__(self, stock: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = stock.num_heads
        size, bias = stock.embed_dim, stock.in_proj_bias is not None
        for number, name in enumerate(("q_proj", "k_proj", "v_proj")):
            layer, part = nn.Linear(size, size, bias), slice(number * size, (number + 1) * size)
            layer.weight.data = stock.in_proj_weight.detach()[part].clone()
            if bias:
                layer.bias.data = stock.in_proj_bias.detach()[part].clone()
            setattr(self, name, layer.requires_grad_(stock.in_proj_weight.requires_grad))
        self.out_proj = stock.out_proj

    def forward(self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = True) -> tuple[Tensor, None]:
        assert not need_weights
        parts = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        heads = [part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts]
        return self.out_proj(nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)), None


def plain_dense(seed: int, planted: bool | None = None, structures: Iterable[str] = ()) -> nn.Module:
    """The seed's network once more, weights that are computed on the way, or packed for heads to cut, written down."""
    model = network(seed, planted).model
    for block in list(model.modules()) if set(structures) & {"vo", "qk", "heads"} else ():
        for name, module in list(block.named_children()):
            if isinstance(module, nn.MultiheadAttention):
                setattr(block, name, WrittenAttention(module).train(module.training))
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
            if "weight" in module._buffers:  # what PyTorch leaves where nothing is trained
                module.weight = nn.Parameter(module._buffers.pop("weight"), requires_grad=False)
    return model


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under all their names."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: tensor.detach() for name, tensor in named}


def put_back(shape: torch.Size, small: Tensor, removed: dict[int, list[int]], blocks: int, fill: Tensor) -> Tensor:
    """The small tensor at its places in a tensor of the dense shape, ``fill`` everywhere else.

    Raises:
        ValueError: the plan removes another number of indices than the small tensor lacks.
    """
    whole, kept = fill.clone(), {}
    sizes = {dim: size * (blocks if dim == 1 else 1) for dim, size in enumerate(shape)}
    for dim, size in sizes.items():
        gone = set(removed.get(dim, ()))
        kept[dim] = torch.tensor([i for i in range(size) if i not in gone], dtype=torch.int64)
    rest = [kept[dim] for dim in range(2, len(shape))]
    rows, columns, start = shape[0] // blocks, shape[1] if len(shape) > 1 else 0, 0
    for block in range(blocks):
        mine = [kept[0][kept[0] // rows == block]] if len(shape) else []
        if len(shape) > 1:
            mine.append(kept[1][kept[1] // columns == block] - block * columns)
        part = small[start : start + len(mine[0])] if mine else small
        start += len(part) if mine else 0
        wanted = tuple(len(index) for index in (*mine, *rest))
        if tuple(part.shape) != wanted:
            raise ValueError(f"the plan leaves {wanted} of {tuple(shape)}, the small network has {tuple(part.shape)}")
        if mine:
            whole[torch.meshgrid(*mine, *rest, indexing="ij")] = part
        else:
            whole = part.clone()
    if len(shape) and start != len(small):
        raise ValueError(f"the plan leaves {start} rows, the small network has {len(small)}")
    return whole


def masked_dense(dense: nn.Module, small: nn.Module, plan: Plan, generator: torch.Generator) -> nn.Module:
    """The dense network in float64 that computes what the small one should.

    Raises:
        ValueError: the small network's tensors are not what the plan says.
    """
    again, found = copy.deepcopy(dense).double(), tensors_of(small)
    for name, tensor in [*again.named_parameters(), *again.named_buffers()]:
        if name not in found:
            raise ValueError(f"the small network has no tensor {name}")
        removed = {dim: indices for (owner, dim), indices in plan.removed.items() if owner == name}
        if not removed:
            if tensor.shape != found[name].shape:
                raise ValueError(f"{name} has shape {tuple(found[name].shape)}, and the plan cuts nothing of it")
            tensor.data.copy_(found[name])
            continue
        fill = 0.5 + torch.rand(tensor.shape, dtype=tensor.dtype, generator=generator)
        blocks = plan.blocks.get(name, 1)
        whole = put_back(tensor.shape, found[name].to(tensor.dtype), removed, blocks, fill)
        for (owner, dim), indices in plan.silent.items():
            if owner == name:
                _silence(whole, dim, indices, blocks)
        tensor.data.copy_(whole)
    for name, module in again.named_modules():
        if isinstance(module, Attention | nn.MultiheadAttention):
            _scale_queries(name, module, small.get_submodule(name), plan)
    return again


def _silence(whole: Tensor, dim: int, indices: list[int], blocks: int) -> None:
    if blocks == 1 or dim != 1:
        whole.index_fill_(dim, torch.tensor(indices), 0.0)
        return
    rows, columns = whole.shape[0] // blocks, whole.shape[1]
    for index in indices:
        block = index // columns
        whole[block * rows : (block + 1) * rows, index % columns] = 0.0


def _scale_queries(name: str, dense: nn.Module, small: nn.Module, plan: Plan) -> None:
    """Logits that are divided by the root of a size that changed: the dense queries make up for it."""
    if type(small) is not type(dense) or (isinstance(dense, Attention) and not dense.follows):
        return
    if isinstance(dense, Attention):
        layer, held = (dense.q_proj, "q_proj.weight") if dense.way == "separate" else (dense.qkv, "qkv.weight")
        rows, tensors = dense.num_heads * dense.head_dim, (layer.weight, layer.bias)
    else:
        rows, tensors, held = dense.embed_dim, (dense.in_proj_weight, dense.in_proj_bias), "in_proj_weight"
    gone = [index for index in plan.removed.get((f"{name}.{held}", 0), ()) if index < rows]
    size = (rows - len(gone)) / small.num_heads
    for tensor in tensors:
        if tensor is not None:
            tensor.data[:rows] *= (dense.head_dim / size) ** 0.5
