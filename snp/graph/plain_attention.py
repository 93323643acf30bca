"""Which module of plain linear layers attends as `nn.MultiheadAttention` does?

PyTorch's module keeps the weights of its three projections in one tensor beside it and computes with the sizes of its
constructor. With layers of their own, queries, keys and values can lose dimensions, or heads, like everywhere else.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PlainAttention", "plain_attention"]


class PlainAttention(nn.Module):
    """Attention with the calls of `nn.MultiheadAttention`, whose heads may have sizes of their own.

    Args:
        stock: its weights are taken over, copied.
    """

    def __init__(self, stock: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.batch_first, self.dropout = stock.num_heads, stock.batch_first, stock.dropout
        self.query_size = self.value_size = stock.head_dim
        self.scale = 1 / math.sqrt(stock.head_dim)  # to the last bit what fused attention scales by
        # Read by nn.TransformerEncoderLayer, which leaves its fused path where there is no bias of all projections.
        self.in_proj_bias, self._qkv_same_embed_dim = None, False
        weights = (
            stock.in_proj_weight.chunk(3)
            if stock.in_proj_weight is not None
            else (stock.q_proj_weight, stock.k_proj_weight, stock.v_proj_weight)
        )
        biases = (None,) * 3 if stock.in_proj_bias is None else stock.in_proj_bias.chunk(3)
        trained = stock.out_proj.weight.requires_grad
        self.q_proj, self.k_proj, self.v_proj = (
            _linear(weight, bias, trained) for weight, bias in zip(weights, biases, strict=True)
        )
        self.out_proj = _linear(stock.out_proj.weight, stock.out_proj.bias, trained)
        self.training = stock.training

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As there: the output, [N, T, E] or [T, N, E] or [T, E], and weights [N, T, S] if asked for, else None."""
        is_batched = query.ndim == 3
        if not is_batched:
            query, key, value = (part[None] for part in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key, value = (part.transpose(0, 1) for part in (query, key, value))
        queries, keys = self._heads(self.q_proj(query)), self._heads(self.k_proj(key))
        values = self._heads(self.v_proj(value))
        mask = self._mask(attn_mask, key_padding_mask, queries)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = queries @ keys.mT * self.scale
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            attended = weights @ values
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            attended = F.scaled_dot_product_attention(queries, keys, values, mask, dropout, scale=self.scale)
        output = self.out_proj(attended.transpose(1, 2).flatten(2))
        if not is_batched:
            return output[0], None if weights is None else weights[0]
        return output if self.batch_first else output.transpose(0, 1), weights

    def _heads(self, part: Tensor) -> Tensor:
        """[N, T, H * D] -> [N, H, T, D]."""
        heads: Tensor = part.unflatten(-1, (self.num_heads, -1))
        return heads.transpose(1, 2)

    def _mask(self, attention: Tensor | None, padding: Tensor | None, like: Tensor) -> Tensor | None:
        """Both masks as what is added to scores, shape [N or 1, H or 1, T or 1, S]."""
        found = None
        if attention is not None:
            found = _added(attention, like)
            found = found.unflatten(0, (-1, self.num_heads)) if found.ndim == 3 else found[None, None]
        if padding is not None:
            added = _added(padding, like)[:, None, None]
            found = added if found is None else found + added
        return found


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """A mask whose true entries are left out as what is added to scores; others are that already."""
    if mask.dtype is torch.bool:
        return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, float("-inf"))
    return mask.to(like.dtype)


def _linear(weight: Tensor, bias: Tensor | None, trained: bool) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer.requires_grad_(trained)


def plain_attention(module: nn.Module) -> PlainAttention | None:
    """The same attention in plain layers; None for other modules, and where biases or zeros are added to keys."""
    if type(module) is not nn.MultiheadAttention or module.bias_k is not None or module.add_zero_attn:
        return None
    return PlainAttention(module)
