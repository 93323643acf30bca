"""Does a network give out a cache of keys and values, and can it be told not to?

Language models of Hugging Face do unless told otherwise. A cache is for texts that grow token by token, and no part of
what the network computes for a whole one.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from torch import nn

__all__ = ["keeps_cache", "remedy_of_cache"]

_NAME = "use_cache"


def keeps_cache(model: nn.Module) -> bool:
    """Would a part of the model make a cache, and does the keyword ``use_cache`` reach it?

    Networks around a language model, as of images and text, often name no such keyword and pass on what they are given.
    """
    keywords = inspect.signature(model.forward).parameters
    passes_on = any(entry.kind is entry.VAR_KEYWORD for entry in keywords.values())
    if _NAME not in keywords and not passes_on:
        return False
    return any(_makes_cache(module) for module in model.modules())


def _makes_cache(module: nn.Module) -> bool:
    config: Any = getattr(module, "config", None)
    return bool(getattr(config, _NAME, False)) and _NAME in inspect.signature(module.forward).parameters


def remedy_of_cache(error: Exception) -> str:
    """What to try where an export failed because a cache is among the outputs; empty where it did not."""
    if not re.search(r"Found <class '\S*Cache\S*'> in output", str(error)):
        return ""
    return (
        "The network gives out a cache of keys and values: give use_cache=False among the keywords of the batches, or "
        "set use_cache=False in the configuration of the language model that makes it"
    )
