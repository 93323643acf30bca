"""How is a transformer of Hugging Face built from a folder or a configuration, and how is its text read?

Any architecture that `transformers` knows: causal language models and encoders, by structure, not by name. Weights
are read from safetensors only, code in a folder is never run, and the network is never asked.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from snp.core.precision import in_single
from snp.models._configured import CAUSAL, auto_class_of, configured, generation_of, with_generation
from snp.models._stock_form import save_pretrained

__all__ = ["CAUSAL", "build", "context_length", "load", "save_pretrained", "sees_ahead", "tokenize"]

_ASKED = 8  # tokens that show whether a network sees ahead


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ValueError(
            "models of Hugging Face need the package transformers: pip install 'snp[lm]' (or pip install transformers)"
        ) from error
    transformers.utils.logging.disable_progress_bar()
    return transformers


def build(
    *,
    config: Mapping[str, Any],
    auto_class: str = CAUSAL,
    class_name: str | None = None,
    generation: Mapping[str, Any] | None = None,
    **unused: Any,
) -> nn.Module:
    """A transformer with random weights, the same for the same torch seed.

    Args:
        config: the content of its `config.json`, with `model_type`.
        auto_class: "AutoModelForCausalLM", or "AutoModel" for encoders.
        class_name: of any other class that transformers exports, as "BertForMaskedLM"; it wins over `auto_class`.
        generation: entries of its `generation_config.json`, where it has one.
        **unused: what other families need (`num_classes`, `image_size`).

    Raises:
        ValueError: transformers is not installed, or does not know such a model.
    """
    model = _without_cache(configured(transformers := _transformers(), config, auto_class, class_name))
    return with_generation(transformers, model, generation)


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
        options = {"local_files_only": True, "use_safetensors": True, "dtype": getattr(torch, dtype)}
        # What does not fit or is not there would be random numbers: it is told below, in words of ours.
        told = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = auto_class_of(transformers, auto_class).from_pretrained(str(path), **options, **told)
    except SafetensorError as error:
        raise ValueError(
            f"model.checkpoint={folder}: a safetensors file in it is damaged or cut short ({error}); fetch or save the "
            "model again"
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"model.checkpoint={folder}: transformers cannot read it as {auto_class}: {error}") from error
    _require_weights(folder, info, auto_class)
    config: Any = _without_cache(model).config
    plain = json.loads(config.to_json_string(False))
    return model, {"config": plain, "auto_class": auto_class} | generation_of(model)


def _require_weights(folder: str | Path, info: Mapping[str, Any], auto_class: str) -> None:
    """The files hold a tensor for every parameter; an encoder may do without what only its head needs."""
    wrong = sorted(name for name, *_ in info["mismatched_keys"])
    lacking = sorted(info["missing_keys"]) if auto_class == CAUSAL else []
    for names, what in ((wrong, "of another shape than config.json says"), (lacking, "not in its files")):
        if names:
            shown = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
            raise ValueError(
                f"model.checkpoint={folder}: {len(names)} tensors of the network are {what} ({shown}); give the folder "
                "with config.json and all safetensors files of one model"
            )


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


def sees_ahead(model: nn.Module) -> bool:
    """Does what it says of a token change with tokens behind it, as in an encoder?  Then it has no perplexity.

    Args:
        model: in evaluation mode, on the CPU; from tokens to logits.
    """
    whole: Any = model
    if getattr(whole.config, "is_encoder_decoder", False):
        return True  # its encoder does
    size = whole.get_input_embeddings().num_embeddings
    generator, half = torch.Generator().manual_seed(0), _ASKED // 2
    tokens = torch.randint(size, (1, _ASKED), generator=generator)
    others = tokens.clone()
    others[:, half:] = (tokens[:, half:] + torch.randint(1, size, (1, half), generator=generator)) % size
    # In half precision rounding is as large as what an encoder sees that was not trained yet.
    with torch.no_grad(), in_single():
        found, moved = (whole(input_ids=words).logits[:, :half] for words in (tokens, others))
    # Experts sort the tokens of a batch, so that sums may be rounded otherwise: half of the digits must agree.
    largest = found.abs().max() * torch.finfo(found.dtype).eps ** 0.5
    return bool((found - moved).abs().max() > largest)


def tokenize(folder: str | Path, text: str) -> Tensor:
    """A whole text as tokens, by the tokenizer that lies beside the model; shape [number of tokens], int64.

    Raises:
        ValueError: there is no tokenizer in the folder, or it is one of another model.
    """
    transformers = _transformers()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(Path(folder).expanduser()), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"model.checkpoint={folder}: no tokenizer that transformers can read: {error}") from error
    # Without its files transformers makes one of some classes that knows no words.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise ValueError(
            f"model.checkpoint={folder}: there is no tokenizer in this folder; put the model's tokenizer.json and "
            "tokenizer_config.json there, as tokenizer.save_pretrained writes them"
        )
    # Texts are longer than any context on purpose: they are cut into windows afterwards.
    tokens = torch.tensor(tokenizer(text, verbose=False).input_ids, dtype=torch.int64)
    _require_known(transformers, folder, tokens)
    return tokens


def _require_known(transformers: Any, folder: str | Path, tokens: Tensor) -> None:
    """The model of the folder has an embedding for every token."""
    path = Path(folder).expanduser()
    if not (path / "config.json").is_file() or not len(tokens):
        return
    known = transformers.AutoConfig.from_pretrained(str(path), local_files_only=True).get_text_config()
    if int(tokens.max()) >= (size := getattr(known, "vocab_size", None) or int(tokens.max()) + 1):
        raise ValueError(
            f"model.checkpoint={folder}: its tokenizer gives out token {int(tokens.max())}, and the model knows {size} "
            "(vocab_size in config.json): they do not belong together; put the tokenizer of this model there"
        )


def _without_cache(model: nn.Module) -> nn.Module:
    """Forward passes over whole windows keep no keys and values; `generate` asks for its cache by itself."""
    config: Any = model.config
    if getattr(config, "use_cache", False):
        config.use_cache = False
    return model
