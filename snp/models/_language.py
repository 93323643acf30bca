"""Which language model is it, and what must be known to read text for it and to build it again?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

__all__ = ["LanguageModelSpec", "PreparedLanguageModel"]

_DTYPES = ("float32", "bfloat16", "float16")


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


@dataclass(frozen=True)
class LanguageModelSpec:
    """Which language model to use.

    Attributes:
        name: how reports call it.
        checkpoint: a folder in Hugging Face form: config.json, *.safetensors, a tokenizer.
        family: the file in this folder that reads it.
        dtype: of the weights: "float32", "bfloat16" or "float16".
    """

    name: str
    checkpoint: str | None = None
    family: str = "huggingface"
    dtype: str = "float32"

    reads = "text"

    def prepare(self) -> PreparedLanguageModel:
        """Load the model.

        Raises:
            ValueError: there is no checkpoint, or it cannot be read.
        """
        from snp.models import huggingface  # needs an optional dependency

        if self.checkpoint is None:
            raise ValueError(f"model.checkpoint is not set: give the folder of a Hugging Face model to {self.name}")
        if self.dtype not in _DTYPES:
            raise ValueError(f"model.dtype must be one of {', '.join(_DTYPES)}; found {self.dtype!r}")
        model, arguments = huggingface.load(self.checkpoint, dtype=self.dtype)
        return PreparedLanguageModel(
            model=model,
            recipe={"family": self.family, "arguments": arguments},
            weights="checkpoint",
            reason=f"{self.name} has the weights of {self.checkpoint}",
            format={"tokenizer": self.checkpoint, "context": huggingface.context_length(model)},
        )
