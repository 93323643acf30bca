"""Language models, encoders and multimodal networks of Hugging Face, tiny and with random weights, as they come."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn

__all__ = ["BUILDERS"]

transformers.logging.set_verbosity_error()  # tiny vocabularies lack the special tokens of large ones

VOCABULARY, TOKENS, PIXELS = 96, 12, 32
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
POSITIONS = {"max_position_embeddings": 64}
GATED = {**SIZES, **POSITIONS, "intermediate_size": 64, "num_key_value_heads": 2}
VISION = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "image_size": PIXELS, "patch_size": 8,
}  # fmt: skip
ENCODER = {**SIZES, **POSITIONS, "intermediate_size": 64}
# Experts that routing leaves out see no tokens of a small batch, so a few suffice. They keep multiples of eight units.
EXPERTS = {**GATED, "num_experts_per_tok": 2, "intermediate_size": 512}


def tokens(generator: torch.Generator, length: int = TOKENS) -> Tensor:
    """Token numbers of four texts, shape [4, length]."""
    return torch.randint(3, VOCABULARY, (4, length), generator=generator)


def _text(generator: torch.Generator) -> dict[str, Tensor]:
    numbers = tokens(generator)
    return {"input_ids": numbers, "attention_mask": torch.ones_like(numbers)}


def _text_with_labels(generator: torch.Generator) -> dict[str, Tensor]:
    found = _text(generator)
    return {**found, "labels": found["input_ids"]}


def _pixels(generator: torch.Generator) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(4, 3, PIXELS, PIXELS, generator=generator)}


def _text_and_pixels(generator: torch.Generator) -> dict[str, Tensor]:
    return _text(generator) | _pixels(generator)


def _two_texts(generator: torch.Generator) -> dict[str, Tensor]:
    return {**_text(generator), "decoder_input_ids": tokens(generator)}


def _spectrogram(generator: torch.Generator) -> dict[str, Tensor]:
    features = torch.randn(4, 16, 64, generator=generator)
    return {"input_features": features, "decoder_input_ids": tokens(generator)}


def _sound(generator: torch.Generator) -> dict[str, Tensor]:
    return {"input_values": torch.randn(4, 1600, generator=generator)}


def _build(
    auto: str, config: dict[str, Any], inputs: Callable[[torch.Generator], dict[str, Tensor]]
) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    settings = dict(config)
    made = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    model: nn.Module = getattr(transformers, auto).from_config(made)
    return model.eval(), inputs(torch.Generator().manual_seed(0))


def _causal(model_type: str, sizes: dict[str, Any], **more: Any) -> Callable[[], tuple[nn.Module, Any]]:
    inputs = _text_with_labels if model_type in ("gpt2", "llama") else _text
    return partial(_build, "AutoModelForCausalLM", {"model_type": model_type, **sizes, **more}, inputs)


_GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_TEXT_TOWER = {key: value for key, value in ENCODER.items() if key != "vocab_size"} | {"vocab_size": VOCABULARY}
BUILDERS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "gpt2": _causal("gpt2", _GPT2),
    "opt": _causal("opt", SIZES, ffn_dim=64, word_embed_proj_dim=32, **POSITIONS),
    "opt_post_norm": _causal(
        "opt", SIZES, ffn_dim=64, word_embed_proj_dim=16, do_layer_norm_before=False, **POSITIONS
    ),
    "llama": _causal("llama", GATED),
    "qwen2": _causal("qwen2", GATED),
    "qwen3": _causal("qwen3", GATED, head_dim=8),
    "gemma": _causal("gemma", GATED, head_dim=8),
    "gemma2": _causal("gemma2", GATED, head_dim=8),
    "mistral": _causal("mistral", GATED, sliding_window=None),
    "phi": _causal("phi", GATED),
    "phi3": _causal("phi3", GATED, pad_token_id=0, eos_token_id=1, bos_token_id=2),
    "falcon": _causal("falcon", SIZES, ffn_hidden_size=64, new_decoder_architecture=True, num_kv_heads=2),
    "bloom": _causal("bloom", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "gpt_neox": _causal("gpt_neox", ENCODER),
    "mamba": _causal("mamba", {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "mixtral": _causal("mixtral", EXPERTS, num_local_experts=4),
    "qwen2_moe": _causal(
        "qwen2_moe", EXPERTS, num_experts=4, moe_intermediate_size=512, shared_expert_intermediate_size=64
    ),
    "t5": partial(
        _build, "AutoModelForSeq2SeqLM",
        {"model_type": "t5", "vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2,
         "num_heads": 4},
        _two_texts,
    ),
    "bart": partial(
        _build, "AutoModelForSeq2SeqLM",
        {"model_type": "bart", "vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
         "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
         **POSITIONS},
        _two_texts,
    ),
    "bert": partial(_build, "AutoModelForMaskedLM", {"model_type": "bert", **ENCODER}, _text),
    "bert_classifier": partial(_build, "AutoModelForSequenceClassification", {"model_type": "bert", **ENCODER}, _text),
    "roberta": partial(_build, "AutoModelForMaskedLM", {"model_type": "roberta", **ENCODER}, _text),
    "distilbert": partial(
        _build, "AutoModel",
        {"model_type": "distilbert", "vocab_size": VOCABULARY, "dim": 32, "hidden_dim": 64, "n_layers": 2,
         "n_heads": 4},
        _text,
    ),
    "modernbert": partial(
        _build, "AutoModelForMaskedLM", {"model_type": "modernbert", **ENCODER, "pad_token_id": 0}, _text
    ),
    "vit": partial(_build, "AutoModelForImageClassification", {"model_type": "vit", **VISION}, _pixels),
    "dinov2": partial(_build, "AutoModel", {"model_type": "dinov2", **VISION}, _pixels),
    "segformer": partial(
        _build, "AutoModelForSemanticSegmentation",
        {"model_type": "segformer", "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1],
         "hidden_sizes": [16, 32], "patch_sizes": [7, 3], "strides": [4, 2], "num_attention_heads": [1, 2],
         "mlp_ratios": [4, 4], "decoder_hidden_size": 32},
        _pixels,
    ),
    "clip": partial(
        _build, "AutoModel",
        {"model_type": "clip", "text_config": _TEXT_TOWER, "vision_config": VISION, "projection_dim": 16},
        _text_and_pixels,
    ),
    "siglip": partial(
        _build, "AutoModel", {"model_type": "siglip", "text_config": _TEXT_TOWER, "vision_config": VISION},
        _text_and_pixels,
    ),
    "whisper": partial(
        _build, "AutoModelForSpeechSeq2Seq",
        {"model_type": "whisper", "vocab_size": VOCABULARY, "num_mel_bins": 16, "d_model": 32, "encoder_layers": 2,
         "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64,
         "decoder_ffn_dim": 64, "max_source_positions": 32, "max_target_positions": 64, "pad_token_id": 0,
         "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
        _spectrogram,
    ),
    "wav2vec2": partial(
        _build, "AutoModelForCTC",
        {"model_type": "wav2vec2", "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 4, "intermediate_size": 64, "conv_dim": [32, 32], "conv_stride": [5, 2],
         "conv_kernel": [10, 3], "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16,
         "num_conv_pos_embedding_groups": 4},
        _sound,
    ),
}  # fmt: skip
