"""Which recipe might a network have been built by, as far as its library noted it?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from torch import nn

__all__ = ["recipes_of"]


def recipes_of(
    model: nn.Module, inputs: Mapping[str, Mapping[str, Any]], config: Any = None
) -> Iterator[dict[str, Any]]:
    """Arguments of ``snp.models.build`` that could give this architecture; whoever uses one compares the networks.

    Args:
        model: any module; those of other libraries than timm and transformers have none.
        inputs: what it reads, as plans note it; of images the size is tried where the architecture needs one.
        config: of a transformer, where its own is not that of the architecture; None for its own.
    """
    owner: Any = model
    library = type(model).__module__.split(".")[0]
    if library == "timm":
        name = (getattr(owner, "pretrained_cfg", None) or {}).get("architecture")
        shape = next(iter(inputs.values()))["shape"]
        if name and getattr(owner, "num_classes", None) is not None:
            for more, size in product(_asked_of_timm(owner), (None, shape[-1] if len(shape) == 3 else None)):
                arguments = {"model_name": name, "num_classes": owner.num_classes, "image_size": size, **more}
                yield {"family": "timm", "arguments": arguments}
    elif library == "transformers" and hasattr(model, "config"):
        import transformers

        from snp.models._configured import AUTO_CLASSES, class_name_of, generation_of

        plain = {"config": json.loads((config or owner.config).to_json_string(False))} | generation_of(model)
        if class_name := class_name_of(transformers, model):
            yield {"family": "huggingface", "arguments": {**plain, "class_name": class_name}}
        else:
            for auto_class in AUTO_CLASSES:
                yield {"family": "huggingface", "arguments": {**plain, "auto_class": auto_class}}


def _asked_of_timm(model: Any) -> list[dict[str, Any]]:
    """What `create_model` may have been told that changes the kinds of modules; and nothing, as most are built."""
    rates = [
        float(rate) for part in model.modules() if isinstance(rate := getattr(part, "drop_prob", None), (int, float))
    ]
    asked = {
        "drop_rate": getattr(model, "drop_rate", None),
        "drop_path_rate": max(rates, default=None),
        "dynamic_img_size": getattr(model, "dynamic_img_size", None),
    }
    given = {name: value for name, value in asked.items() if isinstance(value, (bool, int, float)) and value}
    return [given, {}] if given else [{}]
