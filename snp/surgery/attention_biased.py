"""Which module attends where T5 adds a learned bias per pair of positions to the scores?

The first layer of a stack makes the biases, and gives them to all others. What looks at an encoder adds zeros, in one
for each head of the dense module; ours adds none, so that heads may go there layer by layer.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from snp.graph.heads import HeadSizes
from snp.surgery.attention_separate import SeparateAttention
from snp.surgery.projections import Projections

__all__ = ["BiasedAttention", "is_biased"]


def is_biased(stock: nn.Module) -> bool:
    """Is it a module of T5's make?"""
    made: Any = getattr(type(stock), "compute_bias", None)
    if made is None or not hasattr(stock, "has_relative_attention_bias"):
        return False
    given = inspect.signature(stock.forward).parameters
    is_known = {"mask", "key_value_states", "position_bias", "cache"} <= given.keys()
    return is_known and "past_seen_tokens" in inspect.signature(made).parameters


class BiasedAttention(SeparateAttention):
    """Attention of T5's make with sizes of queries and of values that may differ.

    Args:
        stock: :func:`is_biased`; its layers and its numbers are taken over.
        projections: as for :class:`snp.surgery.attention_separate.SeparateAttention`, and so the others.
        sizes: of the heads.
        scaling: of products, where the module keeps none.

    Raises:
        ValueError: the module attends in a way of its own.
    """

    def __init__(self, stock: nn.Module, projections: Projections, sizes: HeadSizes, scaling: float) -> None:
        super().__init__(stock, projections, sizes, scaling)
        made: Any = self.stock
        self._relative_position_bucket = made._relative_position_bucket  # compute_bias calls it

    def forward(  # type: ignore[override]  # called as the stock module is
        self,
        hidden_states: Tensor,
        mask: Tensor | None = None,
        key_value_states: Tensor | None = None,
        position_bias: Tensor | None = None,
        cache: Any = None,
        **options: Any,
    ) -> tuple[Any, ...]:
        """Tokens [B, N, C], and others [B, M, C], to tokens, the biases [1, H, N, M] and the weights."""
        length = hidden_states.shape[1]
        if key_value_states is not None:
            heads = self._of_others(hidden_states, key_value_states, cache)
            attended, weights = self._attended(heads, mask, **options)
            if position_bias is None:
                position_bias = hidden_states.new_zeros(1, 1, length, heads[1].shape[-2])
            return attended, position_bias, weights
        seen = 0 if cache is None else cache.get_seq_length(self.layer_idx)
        seen = seen.clone() if isinstance(seen, Tensor) else seen  # a static cache counts on in place
        heads = self._of_tokens(hidden_states, cache, None)
        if position_bias is None and self.has_relative_attention_bias:
            made: Any = self.stock
            position_bias = made.compute_bias(
                self, length, heads[1].shape[-2], device=hidden_states.device, past_seen_tokens=seen
            )
        attended, weights = self._attended(heads, mask, position_bias=position_bias, **options)
        return attended, position_bias, weights
