"""How does one long text become windows of the model's context length, and which of their tokens are scored?"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["IGNORED", "Windows"]

IGNORED = -100  # a label that asks for nothing


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Windows over a text: items are (tokens [T], next tokens [T]), both int64.

    Every token is asked for at most once. With the stride equal to the context windows do not overlap, as in the
    perplexities of the pruning literature (GPTQ, SparseGPT): only the first token of each has nothing to be predicted
    from. With a smaller one a window scores the tokens that no window before it did, from at least context - stride
    tokens; the others' labels are `IGNORED`. A last window that the text does not fill is padded behind its end, which
    a causal model cannot see.

    Args:
        tokens: the text, shape [L], int64.
        context: tokens per window T, at least 2.
        stride: tokens from the start of a window to that of the next, in 1..T.
        whole_only: leave a last window out that the text does not fill.
    """

    def __init__(self, tokens: Tensor, context: int, stride: int, *, whole_only: bool = False) -> None:
        assert context >= 2, context
        assert 1 <= stride <= context, (context, stride)
        self._tokens, self._context, self._stride = tokens, context, stride
        spare = len(tokens) - context
        # The first window, and one more for every further stride; a last token alone asks for nothing.
        more = spare // stride if whole_only else -(-max(spare, 0) // stride)
        if not whole_only and stride == context and spare > 0 and spare % stride == 1:
            more -= 1
        self._count = max(0, more + 1) if len(tokens) >= 2 else 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < self._count:
            raise IndexError(index)
        start = index * self._stride
        tokens = self._tokens[start : start + self._context]
        labels = torch.full((self._context,), IGNORED, dtype=torch.int64)
        labels[: len(tokens) - 1] = tokens[1:]
        # The window before this one scored all that it saw: its last token sits at that place.
        if index:
            labels[: max(self._context - self._stride - 1, 0)] = IGNORED
        padding = tokens[-1:].expand(self._context - len(tokens))
        return torch.cat([tokens, padding]), labels
