"""How is a transformer of Hugging Face built from a folder or a configuration, and how is its text read?

Any architecture that `transformers` knows: causal language models and encoders, by structure, not by name. Weights
are read from safetensors only, code in a folder is never run, and the network is never asked.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snp.models._stock_form import save_pretrained

__all__ = ["build", "context_length", "load", "save_pretrained", "tokenize"]

CAUSAL = "AutoModelForCausalLM"
AUTO_CLASSES = (CAUSAL, "AutoModel")


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ValueError(
            "models of Hugging Face need the package transformers: pip install 'snp[lm]' (or pip install transformers)"
        ) from error
    transformers.utils.logging.disable_progress_bar()
    return transformers


def build(*, config: Mapping[str, Any], auto_class: str = CAUSAL, **unused: Any) -> nn.Module:
    """A transformer with random weights, the same for the same torch seed.

    Args:
        config: the content of its `config.json`, with `model_type`.
        auto_class: "AutoModelForCausalLM", or "AutoModel" for encoders.
        **unused: what other families need (`num_classes`, `image_size`).

    Raises:
        ValueError: transformers is not installed, or does not know such a model.
    """
    transformers = _transformers()
    try:
        # Only what the class of this architecture knows: no code, kernels or quantisers to be fetched from elsewhere.
        plain = transformers.AutoConfig.for_model(config["model_type"]).to_dict()
        plain = _architecture({key: value for key, value in config.items() if key in plain and key != "model_type"})
        known = transformers.AutoConfig.for_model(config["model_type"], **plain)
        model: nn.Module = _auto(transformers, auto_class).from_config(known)
    except (KeyError, ValueError) as error:
        raise ValueError(f"transformers cannot build a model of this configuration: {error}") from error
    return _without_cache(model)


def _architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without entries that name code or files, in its parts either."""
    elsewhere = ("transformers_version", "auto_map", "quantization_config", "attn_implementation")
    return {
        key: _architecture(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if not str(key).startswith("_") and key not in elsewhere
    }


def load(folder: str | Path, auto_class: str = CAUSAL, dtype: str = "float32") -> tuple[nn.Module, dict[str, Any]]:
    """The model of a folder with `config.json` and `*.safetensors`, and arguments of `build` for its architecture.

    Raises:
        ValueError: there is no such folder, or it holds no model that transformers can read.
    """
    transformers, path = _transformers(), Path(folder).expanduser()
    if not (path / "config.json").is_file():
        raise ValueError(
            f"model.checkpoint={folder}: not a folder of a Hugging Face model (there is no config.json in it); give "
            "the folder that save_pretrained wrote, or that was downloaded from the hub"
        )
    try:
        model: nn.Module = _auto(transformers, auto_class).from_pretrained(
            str(path), local_files_only=True, use_safetensors=True, dtype=getattr(torch, dtype)
        )
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"model.checkpoint={folder}: transformers cannot read it as {auto_class}: {error}") from error
    config: Any = _without_cache(model).config
    return model, {"config": json.loads(config.to_json_string(False)), "auto_class": auto_class}


def context_length(model: nn.Module) -> int:
    """The largest number of tokens that the model sees at once, as its configuration says.

    Raises:
        ValueError: the configuration does not say.
    """
    config: Any = model.config
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        if isinstance(value := getattr(config, name, None), int) and value > 1:
            return value
    raise ValueError(f"the configuration of {type(model).__name__} names no context length: set data.context=NUMBER")


def tokenize(folder: str | Path, text: str) -> Tensor:
    """A whole text as tokens, by the tokenizer that lies beside the model; shape [number of tokens], int64.

    Raises:
        ValueError: there is no tokenizer in the folder.
    """
    transformers = _transformers()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(Path(folder).expanduser()), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"model.checkpoint={folder}: no tokenizer that transformers can read: {error}") from error
    # Texts are longer than any context on purpose: they are cut into windows afterwards.
    return torch.tensor(tokenizer(text, verbose=False).input_ids, dtype=torch.int64)


def _auto(transformers: Any, auto_class: str) -> Any:
    if auto_class not in AUTO_CLASSES:
        raise ValueError(f"model.auto_class must be one of {', '.join(AUTO_CLASSES)}; found {auto_class!r}")
    return getattr(transformers, auto_class)


def _without_cache(model: nn.Module) -> nn.Module:
    """Forward passes over whole windows keep no keys and values; `generate` asks for its cache by itself."""
    config: Any = model.config
    config.use_cache = False
    return model
