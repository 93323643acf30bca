"""How is a network of transformers built from what a configuration says, and of which class?

Configurations come with plans from anywhere: they may name an architecture, and no code, files or addresses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from snp.models.timm import RECIPE_ARGUMENTS

__all__ = [
    "AUTO_CLASSES", "CAUSAL", "auto_class_of", "class_name_of", "configured", "generation_of", "with_generation",
]  # fmt: skip

CAUSAL = "AutoModelForCausalLM"
AUTO_CLASSES = (CAUSAL, "AutoModel")
_ELSEWHERE = ("transformers_version", "auto_map", "quantization_config", "attn_implementation")
_OF_TIMM = ("backbone", "architecture")  # names of networks that transformers has timm build
_FLOAT, _FLOATS = "__float__", ("Infinity", "-Infinity", "NaN")  # as transformers writes what JSON has no number for


def configured(
    transformers: Any, config: Mapping[str, Any], auto_class: str = CAUSAL, class_name: str | None = None
) -> nn.Module:
    """A network with random weights.

    Args:
        transformers: the package.
        config: the content of a `config.json`, with `model_type`.
        auto_class: one of `AUTO_CLASSES`, which knows a class for the configuration.
        class_name: of a class that transformers exports, such as "BertForMaskedLM"; it wins over `auto_class`.

    Raises:
        ValueError: there is no such class or architecture, or it cannot be built with these entries.
    """
    own = None if class_name is None else _own_class(transformers, class_name)
    auto = auto_class_of(transformers, auto_class)
    try:
        name = config["model_type"]
        if name in transformers.CONFIG_MAPPING:
            kind = transformers.CONFIG_MAPPING[name]
        elif own is not None:
            kind = own.config_class  # of a part that no auto class knows
        else:
            raise ValueError(f"it knows no model_type {name!r}")
        # Only what the class of this architecture knows: no code, kernels or quantisers to be fetched from elsewhere.
        known = _known_entries(transformers, kind)
        entries = _architecture({key: value for key, value in config.items() if key in known})
        # Of its own class, as an auto class builds it: in the precision that the configuration notes.
        model: nn.Module = (auto.from_config if own is None else own._from_config)(kind(**entries))
    except Exception as error:  # whatever a class raises at sizes that cannot be, or at a configuration of another one
        raise ValueError(f"transformers cannot build a model of this configuration: {error}") from error
    return model


def auto_class_of(transformers: Any, name: str) -> Any:
    """A class that knows one for every configuration.

    Raises:
        ValueError: it is none of `AUTO_CLASSES`.
    """
    if name not in AUTO_CLASSES:
        raise ValueError(f"model.auto_class must be one of {', '.join(AUTO_CLASSES)}; found {name!r}")
    return getattr(transformers, name)


def class_name_of(transformers: Any, model: nn.Module) -> str | None:
    """The name by which transformers exports a network's class; None where it does not."""
    name = type(model).__name__
    return name if getattr(transformers, name, None) is type(model) else None


def generation_of(model: nn.Module) -> dict[str, Any]:
    """How its text is generated, as `generation`, where a file or the user said so; else nothing.

    Args:
        model: of transformers.
    """
    found: Any = getattr(model, "generation_config", None)
    if found is None or getattr(found, "_from_model_config", True):
        return {}
    return {"generation": _plain_entries(json.loads(found.to_json_string(use_diff=True)))}


def with_generation(transformers: Any, model: nn.Module, generation: Mapping[str, Any] | None) -> nn.Module:
    """The network itself, which generates as noted: by numbers and words alone, with nothing to be fetched or run."""
    if generation is not None:
        known = set(transformers.GenerationConfig().to_dict())
        entries = {key: value for key, value in _plain_entries(generation).items() if key in known}
        whole: Any = model
        whole.generation_config = transformers.GenerationConfig(**entries)
    return model


def _plain_entries(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are numbers, words, or lists of them."""
    plain = (bool, int, float, str)
    return {
        key: value
        for key, value in entries.items()
        if not key.startswith("_")
        and key != "transformers_version"
        and all(isinstance(part, plain) for part in (value if isinstance(value, list) else [value]))
    }


def _own_class(transformers: Any, name: str) -> Any:
    found = getattr(transformers, name, None) if isinstance(name, str) else None
    if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
        raise ValueError(f"class_name must be that of a network which transformers exports; found {name!r}")
    return found


def _known_entries(transformers: Any, kind: Any) -> set[str]:
    """Names of what a configuration of a kind holds, beside that kind."""
    if getattr(kind, "has_no_defaults_at_init", False):  # it is put together from others
        known = {*transformers.PreTrainedConfig().to_dict(), *kind.sub_configs}
    else:
        known = set(kind().to_dict())
    # These two are set on configurations that do not list them, and a loss depends on them.
    return known - {"model_type"} | {"pad_token_id", "decoder_start_token_id"}


def _architecture(value: Any, name: str = "") -> Any:
    """An entry of a configuration without what names code or files, in its parts either."""
    if isinstance(value, (list, tuple)):
        return [_architecture(part) for part in value]
    if not isinstance(value, Mapping):
        if name in _OF_TIMM and isinstance(value, str) and ":" in value:
            raise ValueError(f"{name}={value} is an address, and no name of a network")
        return value
    if set(value) == {_FLOAT} and value[_FLOAT] in _FLOATS:
        return float(value[_FLOAT])
    if name == "model_args":  # of timm
        return {key: part for key, part in value.items() if key in RECIPE_ARGUMENTS}
    return {
        key: _architecture(part, str(key))
        for key, part in value.items()
        if not str(key).startswith("_") and key not in _ELSEWHERE
    }
