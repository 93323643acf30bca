"""Which module attends in BLOOM and Falcon, which call no function of transformers for it?

Scores get a slope of distances for each head (ALiBi), made once for the heads of the dense network: a module with fewer
heads picks its own. Falcon may turn queries and keys instead.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snp.graph.heads import HeadSizes
from snp.surgery.attention_separate import SeparateAttention
from snp.surgery.projections import Projections

__all__ = ["SlopedAttention", "is_sloped"]


def is_sloped(stock: nn.Module) -> bool:
    """Is it the module of BLOOM or Falcon?"""
    return type(stock).__name__ in ("BloomAttention", "FalconAttention") and hasattr(stock, "inv_norm_factor")


class SlopedAttention(SeparateAttention):
    """Attention as in BLOOM and Falcon with sizes of queries and of values that may differ, and any of the heads.

    Args:
        stock: :func:`is_sloped`; its layers and its numbers are taken over.
        projections: as for :class:`snp.surgery.attention_separate.SeparateAttention`, and so the others.
        sizes: of the heads.
        scaling: of products.

    Raises:
        ValueError: the output is summed in parts.
    """

    config: Any
    hidden_dropout: float
    heads: Tensor | None  # which heads of the dense module these are, shape [H]; None for all of them

    def __init__(self, stock: nn.Module, projections: Projections, sizes: HeadSizes, scaling: float) -> None:
        super().__init__(stock, projections, sizes, scaling)
        self.register_buffer("heads", None, persistent=False)  # the plan says it

    @staticmethod
    def _is_of_this_make(stock: Any) -> bool:
        return not (getattr(stock, "slow_but_exact", False) and stock.pretraining_tp > 1)

    def pick_heads(self, kept: Tensor) -> None:
        """Keep some of the heads of queries that there are now, [H']."""
        kept = kept if self.heads is None else self.heads.cpu()[kept]
        self.heads = kept.to(next(self.parameters()).device)

    def forward(  # type: ignore[override]  # called as the stock module is
        self,
        hidden_states: Tensor,
        residual: Tensor | None = None,
        alibi: Tensor | None = None,
        attention_mask: Tensor | None = None,
        layer_past: Any = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        output_attentions: bool = False,
        **options: Any,
    ) -> tuple[Any, ...]:
        """Tokens [B, N, C], with BLOOM also what is added to the result, to tokens and weights."""
        heads = self._of_tokens(hidden_states, layer_past, position_embeddings if alibi is None else None)
        query, key, value = (
            part.repeat_interleave(self.projections.num_shared, dim=1) if len(part[0]) < len(heads[0][0]) else part
            for part in heads
        )
        mask = None if attention_mask is None else self._own(attention_mask)
        slopes = None if alibi is None else self._own(alibi.unflatten(0, (len(query), -1)))  # [B, H, 1, M]
        dropout = 0.0 if alibi is None else self._dropout()
        weights = None
        if residual is None and self.config._attn_implementation == "sdpa" and not output_attentions:
            is_causal = mask is None and query.shape[-2] > 1
            attended = F.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal, scale=self.scaling)
        else:
            weights = self._weights(query, key, slopes, mask, of_bloom=residual is not None)
            attended = F.dropout(weights, dropout, self.training) @ value
        attended = self.get_submodule(self.output)(attended.transpose(1, 2).flatten(2))
        if residual is not None:
            attended = residual + F.dropout(attended, self.hidden_dropout, self.training)
        return attended, weights

    def _weights(
        self, query: Tensor, key: Tensor, slopes: Tensor | None, mask: Tensor | None, *, of_bloom: bool
    ) -> Tensor:
        """Shares of keys [B, H, N, M]: BLOOM scales scores alone, Falcon slopes with them."""
        scores = query @ key.transpose(-1, -2) * self.scaling
        if slopes is not None:
            scores = scores + (slopes if of_bloom else slopes * self.scaling)
        scores = scores if mask is None else scores + mask
        return scores.softmax(-1, dtype=torch.float32 if of_bloom else query.dtype).to(query.dtype)

    def _own(self, biases: Tensor) -> Tensor:
        """Biases or a mask, [B, 1 or heads of the dense module, N or 1, M], of the heads that are here."""
        return biases if self.heads is None or biases.shape[1] == 1 else biases[:, self.heads]
