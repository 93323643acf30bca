"""What does the decoder of an encoder-decoder read where a batch holds nothing but what it should put out?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from snp.graph.wrappers import unwrapped

__all__ = ["with_decoder_inputs"]


def with_decoder_inputs(model: nn.Module, raw: Any) -> Any:
    """What a data loader yields, with the tokens that the decoder reads in the place of labels.

    In training the encoder-decoders of transformers read their labels, moved on by one token, where nothing else is
    given (``prepare_decoder_input_ids_from_labels``). Labels are no inputs here, so these are written down.

    Args:
        model: perhaps wrapped; any network.
        raw: a mapping of keyword arguments, or a tuple or list that begins with one; all else comes back as it is.
    """
    if isinstance(raw, (tuple, list)) and raw and isinstance(raw[0], Mapping):
        return (with_decoder_inputs(model, raw[0]), *raw[1:])
    moved: Callable[[Tensor], Tensor] | None = getattr(unwrapped(model), "prepare_decoder_input_ids_from_labels", None)
    if moved is None or not isinstance(raw, Mapping) or not isinstance(raw.get("labels"), Tensor):
        return raw
    if "decoder_input_ids" in raw or "decoder_inputs_embeds" in raw:
        return raw
    return {**raw, "decoder_input_ids": moved(raw["labels"])}
