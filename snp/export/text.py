"""How does a language model leave Python?  Tokens in, logits out; batch and length free; scored by its perplexity."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from snp.data.windows import IGNORED
from snp.export.programs import first_output

__all__ = ["Logits", "example_tokens", "is_language_model", "perplexities"]

_TOKENS = 32  # of an example: a program with a free length takes any


class Logits(nn.Module):
    """A causal language model as a function of tokens alone; what pads a text behind its end, it does not see.

    Args:
        model: of transformers, in evaluation mode.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """From int64 [N, T] to logits [N, T, V]."""
        return first_output(self.model(input_ids=tokens))


def is_language_model(model: nn.Module) -> bool:
    """Does it read tokens and give out one logit for each of its vocabulary?  Recognisers of speech read sound."""
    of_output = getattr(model, "get_output_embeddings", None)
    reads_tokens = getattr(model, "main_input_name", "input_ids") == "input_ids"
    return of_output is not None and reads_tokens and of_output() is not None


def example_tokens(model: nn.Module, count: int, length: int | None) -> Tensor:
    """Tokens drawn from the vocabulary, always the same, int64 [count, length]; None for a usual length."""
    embeddings = model.get_input_embeddings()  # type: ignore[operator]
    most = getattr(model.config, "max_position_embeddings", None) or _TOKENS
    shape = (count, length or min(_TOKENS, most))
    return torch.randint(embeddings.num_embeddings, shape, generator=torch.Generator().manual_seed(0))


def perplexities(
    sessions: Mapping[str, Callable[[Tensor], Tensor]], batches: Iterable[tuple[Tensor, Tensor]], most: int
) -> dict[str, float]:
    """Perplexity of each on the first windows of the test text.

    Args:
        sessions: name -> function from tokens to logits.
        batches: tokens and next tokens, both [N, T]; `IGNORED` ones do not count.
        most: how many windows at most, 1 or more.
    """
    losses, counted, seen = dict.fromkeys(sessions, 0.0), 0, 0
    for tokens, labels in batches:
        tokens, labels = tokens[: most - seen], labels[: most - seen]
        for name, run in sessions.items():
            logits = run(tokens).flatten(0, 1).double()
            losses[name] += float(cross_entropy(logits, labels.flatten(), ignore_index=IGNORED, reduction="sum"))
        counted += int((labels != IGNORED).sum())
        seen += len(labels)
        if seen >= most:
            break
    return {name: math.exp(loss / max(counted, 1)) for name, loss in losses.items()}
