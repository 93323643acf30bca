"""How is an architecture built again from what is written down about it?"""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from torch import nn

from snp.core.registry import Registry
from snp.models.sources.module_settings import Settings, with_settings

__all__ = ["FAMILIES", "build", "families", "rebuild"]

FAMILIES = Registry("model.family", "snp.models", "snp.models")


def families() -> tuple[str, ...]:
    """Names of the families: the files of this folder, and entry points of ``snp.models``."""
    return tuple(FAMILIES.names())


def build(
    family: str, arguments: Mapping[str, Any] | None = None, settings: Settings | None = None, **more_arguments: Any
) -> nn.Module:
    """A network of a family with random weights, the same for the same torch seed, without network access.

    Args:
        family: one of `families()`.
        arguments: given to the family's `build`, as one mapping, the way a recipe holds them: `build(**recipe)`.
        settings: module -> setting -> value, where modules differ from those that the family builds, as in a recipe.
        **more_arguments: arguments, too, as keywords; they win.

    Raises:
        ValueError: no such family, or the family refuses an argument.
    """
    module = FAMILIES.load(family)
    model: nn.Module = module.build(**{**(arguments or {}), **more_arguments})
    return with_settings(model, settings) if settings else model


def rebuild(recipe: Mapping[str, Any]) -> nn.Module:
    """The network of a recipe that came with a plan from anywhere: it may name an architecture, and nothing else.

    A family says which arguments those are (`RECIPE_ARGUMENTS`); without that, those its `build` names itself.

    Raises:
        ValueError: the family is of a package that is not installed, or the recipe asks for more, such as files or
            addresses.
    """
    settings = recipe.get("settings", {})
    parts = (recipe.get("arguments"), settings, *(settings.values() if isinstance(settings, Mapping) else ()))
    is_whole = {*recipe, "settings"} == {"family", "arguments", "settings"}
    if not is_whole or not all(isinstance(part, Mapping) for part in parts):
        raise ValueError(
            "the recipe of plan.json must hold family, arguments and settings of modules, and nothing else"
        )
    if recipe["family"] not in FAMILIES:
        raise ValueError(
            f"the network was made with model.family={recipe['family']}, which is of another package than snp: install "
            "that package where the network is loaded, or build the dense network yourself and call "
            f"load(folder, model=...); here are {', '.join(families())}"
        )
    module, arguments = FAMILIES.load(recipe["family"]), recipe["arguments"]
    named = {name for name, entry in signature(module.build).parameters.items() if entry.kind is not entry.VAR_KEYWORD}
    refused = sorted(set(arguments) - set(getattr(module, "RECIPE_ARGUMENTS", ())) - named)
    if refused:
        raise ValueError(
            f"plan.json asks the family {recipe['family']} for {', '.join(refused)}, which a plan may not set; where "
            "you trust it, build the dense network yourself and call load(folder, model=...)"
        )
    return build(recipe["family"], arguments, settings)
