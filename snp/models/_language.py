"""Which language model is it, and what must be known to read text for it and to build it again?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic.dataclasses import dataclass as options
from torch import nn

from snp.core.options import STRICT, named, option

__all__ = ["LanguageModelSpec", "PreparedLanguageModel"]


@dataclass(frozen=True)
class PreparedLanguageModel:
    """A language model ready for the pipeline.

    Attributes:
        model: the network, on the CPU.
        recipe: JSON-able; `build(**recipe)` is the same architecture with random weights.
        weights: always "checkpoint".
        reason: one sentence for the user: which weights.
        format: what text data need: the folder of the `tokenizer`, and the `context` in tokens.
    """

    model: nn.Module
    recipe: dict[str, Any]
    weights: str
    reason: str
    format: dict[str, Any]


@named(lambda given: "model")
@options(frozen=True, config=STRICT)
class LanguageModelSpec:
    """Which language model to use."""

    name: str = option(..., "how reports call it")
    checkpoint: str | None = option(None, "a folder in Hugging Face form: config.json, *.safetensors, a tokenizer")
    family: str = option("huggingface", "the file in snp/models that reads it, or an entry point of snp.models")
    dtype: Literal["float32", "bfloat16", "float16"] = option(
        "float32", "of the weights; bfloat16 or float16 on devices that compute in it"
    )

    reads = "text"

    def prepare(self) -> PreparedLanguageModel:
        """Load the model.

        Raises:
            ValueError: there is no checkpoint, it cannot be read, or its network is no causal language model.
        """
        from snp.models import huggingface  # needs an optional dependency

        if self.checkpoint is None:
            raise ValueError(f"model.checkpoint is not set: give the folder of a Hugging Face model to {self.name}")
        model, arguments = huggingface.load(self.checkpoint, dtype=self.dtype)
        if huggingface.sees_ahead(model):
            raise ValueError(
                f"model.checkpoint={self.checkpoint}: {type(model).__name__} says of a token what depends on tokens "
                "behind it, as an encoder does, so that it has no perplexity; give a causal language model, or prune "
                "it from Python: snp.prune(model, batches)"
            )
        return PreparedLanguageModel(
            model=model,
            recipe={"family": self.family, "arguments": arguments},
            weights="checkpoint",
            reason=f"{self.name} has the weights of {self.checkpoint}",
            format={"tokenizer": self.checkpoint, "context": huggingface.context_length(model)},
        )
