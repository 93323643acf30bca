"""Which module attends in timm's networks where scores get biases of positions, or queries and keys are turned?"""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snp.graph.heads import HeadSizes

__all__ = ["TableAttention", "TimmAttention", "is_of_tables"]

_KNOWN = {"Attention", "EvaAttention", "RelPosAttention", "WindowAttention"}
_FILES = ("beit", "davit", "eva", "swin_transformer", "vision_transformer_relpos")
_OF_ONE_SIZE = ("head_dim", "attn_dim")
_SHARED = ("shared_rel_pos", "shared_rel_pos_bias", "attn_mask")


def is_of_tables(stock: nn.Module) -> bool:
    """Is it a module of timm's BEiT, DaViT, EVA, Swin, or ViT with relative positions?"""
    package, _, file = type(stock).__module__.rpartition(".")
    return package == "timm.models" and file in _FILES and type(stock).__name__ in _KNOWN


class TimmAttention(nn.Module):
    """Self-attention of timm's make with sizes of queries and of values that may differ.

    Args:
        stock: its layers are taken over.
        sizes: of the heads.
        scale: of products: that of the dense heads.
    """

    def __init__(self, stock: nn.Module, sizes: HeadSizes, scale: float) -> None:
        super().__init__()
        for name, layer in stock.named_children():
            self.add_module(name, layer)
        self.num_heads, self.query_size, self.value_size = sizes.num_heads, sizes.query_size, sizes.value_size
        self.scale, self.training = scale, stock.training

    def _layer(self, name: str, values: Tensor) -> Tensor:
        layer: Any = getattr(self, name, None)
        attended: Tensor = values if layer is None else layer(values)
        return attended

    def extra_repr(self) -> str:
        """Sizes, for print(model)."""
        return f"num_heads={self.num_heads}, query_size={self.query_size}, value_size={self.value_size}"


class TableAttention(TimmAttention):
    """Self-attention with sizes of queries and of values that may differ.

    Args:
        stock: :func:`is_of_tables`; its layers, tables and numbers are taken over.
        sizes: of the heads.
        scale: of products: that of the dense heads.
    """

    places: Tensor | None  # of each head: which entries of rotary tables its dimensions meet, shape [H, D]
    proj: nn.Linear

    def __init__(self, stock: nn.Module, sizes: HeadSizes, scale: float) -> None:
        super().__init__(stock, sizes, scale)
        for name, parameter in stock.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in stock.named_buffers(recurse=False):
            self.register_buffer(name, buffer, persistent=name not in stock._non_persistent_buffers_set)
        plain = {name: value for name, value in vars(stock).items() if not name.startswith("_")}
        vars(self).update({name: value for name, value in plain.items() if name not in {*_OF_ONE_SIZE, *vars(self)}})
        self.stock, self.given = type(stock), tuple(inspect.signature(stock.forward).parameters)[1:]
        self.register_buffer("places", None, persistent=False)  # the plan says it

    def pick_places(self, heads: Tensor, places: Tensor) -> None:
        """Keep some of the heads, shape [H'], and of each some of the dimensions that it has now, shape [H', D']."""
        places = places if self.places is None else self.places.cpu()[heads].gather(1, places)
        self.places = places.to(self.proj.weight.device)

    def forward(self, x: Tensor, *given: Any, **named: Any) -> Tensor:
        """Tokens [B, N, C] to tokens [B, N, C]; what else is given is named as in the stock module."""
        options = dict(zip(self.given, given, strict=False)) | named
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self._parts(x))
        query, key = self._layer("q_norm", query), self._layer("k_norm", key)
        if options.get("rope") is not None:
            query, key = (self._turned(part, options["rope"]).type_as(value) for part in (query, key))
        drop: Any = getattr(self, "attn_drop", None)
        dropout, is_causal = drop.p if drop is not None and self.training else 0.0, bool(options.get("is_causal"))
        biases = self._biases(options, len(x))
        mixed = F.scaled_dot_product_attention(query, key, value, biases, dropout, is_causal, scale=self.scale)
        mixed = self._layer("norm", mixed.transpose(1, 2).flatten(2))  # [B, N, H * V]
        gate: Any = getattr(self, "gate", None)
        mixed = mixed if gate is None else mixed * gate(x).sigmoid()
        return self._layer("proj_drop", self.proj(mixed))

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of all heads side by side."""
        fused: Any = getattr(self, "qkv", None)
        if fused is None:
            return tuple(self.get_submodule(name)(x) for name in ("q_proj", "k_proj", "v_proj"))
        own: list[Any] = [getattr(self, name, None) for name in ("q_bias", "k_bias", "v_bias")]
        made: Tensor = fused(x) if own[0] is None else F.linear(x, fused.weight, torch.cat(own))
        return made.split([self.num_heads * n for n in (self.query_size, self.query_size, self.value_size)], dim=-1)

    def _turned(self, heads: Tensor, rope: Tensor) -> Tensor:
        """Heads [B, H, N, D] but for the first tokens turned by sines and cosines of the dense ones, [N', 2 D]."""
        prefix: Any = self.num_prefix_tokens
        if self.places is not None:
            if rope.ndim > 2:
                raise ValueError(f"{self.stock.__name__} turns each head by a table of its own")
            entries = torch.cat([self.places, self.places + rope.shape[-1] // 2], dim=1)
            rope = rope[:, entries].transpose(0, 1)[None]  # [1, H, N', 2 D]
        file: Any = sys.modules[self.stock.__module__]
        turned = file.apply_rot_embed_cat(heads[:, :, prefix:], rope, half=getattr(self, "rotate_half", False))
        return torch.cat([heads[:, :, :prefix], turned], dim=2)

    def _biases(self, options: dict[str, Any], num_samples: int) -> Tensor | None:
        """All that is added to scores, [1 or B, 1 or H, N, N]."""
        made: Any = self.stock
        found = [options[name] for name in _SHARED if options.get(name) is not None]
        if getattr(self, "relative_position_bias_table", None) is not None:
            found.append(made._get_rel_pos_bias(self))
        if isinstance(getattr(self, "rel_pos", None), nn.Module):
            of_module: Any = self.rel_pos
            found.append(of_module.get_bias())
        mask = options.get("mask")
        if mask is not None:  # of shifted windows, [W, N, N]
            found.append(mask[:, None].repeat(num_samples // len(mask), 1, 1, 1))
        if not found:
            return None
        biases: Tensor = found[0]
        for other in found[1:]:
            biases = biases + other
        return biases
