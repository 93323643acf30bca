"""Which module attends over maps of images?  SegFormer looks at a coarser map, Swin at windows with learned biases."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from snp.surgery.attention_separate import SeparateAttention

__all__ = ["ReducedAttention", "WindowedAttention", "is_reduced", "is_windowed"]


def is_reduced(stock: nn.Module) -> bool:
    """Is it the module of SegFormer?"""
    return type(stock).__name__ == "SegformerAttention" and hasattr(stock, "sequence_reduction_ratio")


def is_windowed(stock: nn.Module) -> bool:
    """Is it the module of Swin?"""
    return type(stock).__name__ == "SwinAttention" and hasattr(stock, "relative_position_bias")


class ReducedAttention(SeparateAttention):
    """Attention of SegFormer with sizes of queries and of values that may differ: :func:`is_reduced`."""

    def forward(  # type: ignore[override]  # called as the stock module is
        self, hidden_states: Tensor, height: int, width: int, attention_mask: Tensor | None = None, **options: Any
    ) -> tuple[Any, ...]:
        """Tokens [B, height * width, C] to tokens; keys and values are made of fewer."""
        reduction: Any = getattr(self, "sequence_reduction", None)
        others = hidden_states if reduction is None else reduction(hidden_states, height, width)
        return self._attended(self._of_others(hidden_states, others, None), attention_mask, **options)


class WindowedAttention(SeparateAttention):
    """Attention of Swin with sizes of queries and of values that may differ: :func:`is_windowed`."""

    def forward(  # type: ignore[override]  # called as the stock module is
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **options: Any
    ) -> tuple[Any, ...]:
        """Tokens [B * W, N, C] of W windows, masked by [W, N, N] where these are shifted, to tokens."""
        made: Any = self.relative_position_bias
        biases: Tensor = made()  # [1, H, N, N]
        if attention_mask is not None:
            num_samples = len(hidden_states) // len(attention_mask)
            biases = biases + attention_mask[:, None].repeat(num_samples, 1, 1, 1)
        return self._attended(self._of_tokens(hidden_states, None, None), biases, **options)
