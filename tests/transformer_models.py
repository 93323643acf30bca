"""Which small transformers of Hugging Face do several test files prune?"""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

from snp.models import huggingface

WORDS = ("the", "cat", "dog", "sees", "hears", "a", "red", "blue", "bird", "and", "then", "runs", "away", ".")
SIZES: dict[str, Any] = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
GATED = {**SIZES, "intermediate_size": 24, "num_key_value_heads": 2, "max_position_embeddings": 32}
# Name -> class of transformers that it is loaded by, and its configuration.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "opt": (
        huggingface.CAUSAL,
        {**SIZES, "model_type": "opt", "ffn_dim": 24, "max_position_embeddings": 32, "word_embed_proj_dim": 16},
    ),
    # As OPT-350M: norms behind the branches, and projections between embeddings and stream.
    "opt_post_norm": (
        huggingface.CAUSAL,
        {
            **SIZES,
            "model_type": "opt",
            "ffn_dim": 24,
            "max_position_embeddings": 32,
            "word_embed_proj_dim": 8,
            "do_layer_norm_before": False,
        },
    ),
    "llama": (huggingface.CAUSAL, {**GATED, "model_type": "llama"}),
    "qwen2": (huggingface.CAUSAL, {**GATED, "model_type": "qwen2"}),
    "bert": (
        "AutoModel",
        {**SIZES, "model_type": "bert", "intermediate_size": 24, "max_position_embeddings": 32},
    ),
}


def transformer(name: str) -> nn.Module:
    """A tiny network of random weights in evaluation mode, every tensor of it at work."""
    torch.manual_seed(0)
    auto_class, config = CONFIGS[name]
    model = huggingface.build(config=config, auto_class=auto_class).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3) if parameter.ndim > 1 else parameter.uniform_(0.5, 1.5)
    return model


def token_batches(count: int = 24, length: int = 12, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randint(3, 32, (count, length), generator=generator).split(6))


def sentences(count: int, seed: int = 0) -> str:
    """Text with a grammar that a tiny network can learn something of."""
    generator = torch.Generator().manual_seed(seed)

    def pick(*words: str) -> str:
        return words[int(torch.randint(len(words), (1,), generator=generator))]

    parts = [
        f"the {pick('red', 'blue')} {pick('cat', 'dog')} {pick('sees', 'hears')} a {pick('bird', 'cat', 'dog')} "
        f"and then {pick('runs away', 'sees the bird')} ."
        for _ in range(count)
    ]
    return " ".join(parts)


def save_folder(folder: Path, name: str = "opt") -> Path:
    """A folder in Hugging Face form: configuration, weights, and a tokenizer that knows `WORDS`."""
    transformer(name).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: 3 + index for index, word in enumerate(WORDS)} | {"?": 0}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(folder)
    return folder
