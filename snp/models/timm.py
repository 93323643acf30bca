"""How is any network of timm built, with random or with pretrained weights, and which images does it want?

Building never touches the network. Pretrained weights are fetched as one safetensors file (`snp.models.sources.hub`)
and handed to timm as a file, so that timm adapts position embeddings and heads, and a missing network is noticed at
once.
"""

import difflib
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import get_pretrained_cfg
from torch import nn

from snp.models.sources import hub

# What a plan from anywhere may set beside the name: numbers and names of the architecture. Files, addresses and
# configurations of weights are missing on purpose.
RECIPE_ARGUMENTS = frozenset(
    "in_chans global_pool drop_rate drop_path_rate attn_drop_rate proj_drop_rate pos_drop_rate patch_drop_rate "
    "drop_block_rate img_size patch_size window_size embed_dim embed_dims depth depths num_heads mlp_ratio qkv_bias "
    "qk_norm init_values class_token reg_tokens no_embed_class dynamic_img_size output_stride layers channels dims "
    "cardinality base_width stem_width stem_type stem_chs growth_rate block_config channel_multiplier "
    "channel_divisor act_layer norm_layer aa_layer strict_img_size".split()
)
# These would read files or fetch addresses: model.checkpoint and model.pretrained are the ways to weights.
_WEIGHTS = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def build(*, model_name: str, num_classes: int, image_size: int | None = None, **arguments: Any) -> nn.Module:
    """A timm network with random weights, the same for the same torch seed; takes (N, 3, H, W), gives (N, num_classes).

    Args:
        model_name: a name of `timm.list_models()`, with or without a `.tag` of pretrained weights.
        num_classes: number of logits.
        image_size: height and width in pixels, given to architectures that are built for one size; None for their own.
        **arguments: given to the architecture as they are, e.g. `drop_path_rate=0.1`.

    Raises:
        ValueError: timm does not know the name, or the architecture refuses the size or an argument.
    """
    _check_name(model_name)
    for name in _WEIGHTS:
        if name in arguments:
            raise ValueError(f"model.arguments.{name}: choose weights by model.checkpoint or model.pretrained instead")
    # A size among the arguments wins.
    return _create(model_name, num_classes=num_classes, **_size_argument(model_name, image_size) | arguments)


def load_pretrained(
    *, model_name: str, num_classes: int, image_size: int | None = None, **arguments: Any
) -> tuple[nn.Module, str, bool]:
    """Like `build`, with the pretrained weights of timm's repository on the hub.

    Returns:
        The network, where its weights came from, and whether its head is the pretrained one (False: a new, random
        head).

    Raises:
        ValueError: as `build`.
        snp.models.WeightsNotFoundError: there are no such weights, or they are neither cached nor within reach.
    """
    _check_name(model_name)
    source = get_pretrained_cfg(model_name)
    if source is None or not source.hf_hub_id:
        tags = timm.list_pretrained(f"{model_name.split('.')[0]}.*")
        hint = f"; pretrained: {', '.join(tags[:5])}" if tags else ""
        raise hub.WeightsNotFoundError(f"timm has no weights of {model_name} on the hub{hint}")
    path = hub.fetch(source.hf_hub_id)
    # Files on the hub are plain state dicts, whatever the loader of the file that the weights once came from.
    overlay = {"file": str(path), "custom_load": False}
    size = _size_argument(model_name, image_size)
    model = _create(
        model_name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=num_classes, **size | arguments
    )
    return model, f"{source.hf_hub_id} ({path})", source.num_classes == num_classes


def preprocessing(model: nn.Module, image_size: int | None) -> dict[str, Any]:
    """Size, mean, std, interpolation and crop that timm records for the network; `image_size` wins over its size."""
    config = resolve_model_data_config(model)
    return {
        "image_size": image_size or config["input_size"][-1],
        "mean": tuple(config["mean"]),
        "std": tuple(config["std"]),
        "interpolation": config["interpolation"],
        "crop_fraction": config["crop_pct"],
    }


def _check_name(model_name: str) -> None:
    architecture, _, tag = model_name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see timm.list_models()"
        raise ValueError(f"model.arguments.model_name={model_name}: timm has no such network; {hint}")
    try:
        get_pretrained_cfg(model_name)
    except RuntimeError as error:
        tagged = ", ".join(timm.list_pretrained(f"{architecture}.*")) or "none"
        raise ValueError(
            f"model.arguments.model_name={model_name}: there are no weights tagged {tag}; leave the tag out or choose "
            f"one of {tagged}"
        ) from error


def _create(model_name: str, **arguments: Any) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(model_name, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        given = {key: value for key, value in arguments.items() if not key.startswith("pretrained")}
        raise ValueError(f"timm cannot build {model_name} with {given}: {error}") from error
    return model


def _size_argument(model_name: str, image_size: int | None) -> dict[str, int]:
    """`img_size` for architectures that take it, found out by building one without memory; nothing for all others."""
    if image_size is None:
        return {}
    try:
        with torch.device("meta"):
            timm.create_model(model_name, img_size=image_size)
    except TypeError as error:
        if "img_size" in str(error):
            return {}
    except (ValueError, AssertionError, RuntimeError):
        pass  # it takes the argument but not this value, or cannot live on meta: the real build says what is wrong
    return {"img_size": image_size}
