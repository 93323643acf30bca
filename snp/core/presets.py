"""What does a preset fill in, and what was asked for by name that it would fill over?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["fill_in", "refuse_overruled"]

# The dense network's activations are all that weights are fitted on, one transfer per kernel.
_JOINT = {"calibration": "joint", "conv_gram": "channel", "trials": False, "tilt": False, "mirrored": False}
_PRESETS: dict[str, dict[str, Any]] = {
    "paper": _JOINT | {"ordering": "zca", "cut": "variance"},
    "quick": _JOINT | {"batch_norm": "reestimate"},
    "best": {},
}


def fill_in(settings: Any) -> None:
    """Set what ``settings.preset`` says of options that were left at their defaults, while settings are made.

    Args:
        settings: a :class:`snp.settings.PruneSettings`.
    """
    known = type(settings).__pydantic_fields__
    for name, value in _PRESETS[settings.preset].items():
        if name == "cut" and not settings.target.is_budget:
            continue  # the target says how to cut
        if getattr(settings, name) == known[name].default:
            object.__setattr__(settings, name, value)


def refuse_overruled(settings: Any, named: Mapping[str, Any]) -> None:
    """Nothing that was asked for by name is something else by ``settings.preset``: default values are filled, too.

    Args:
        settings: a :class:`snp.settings.PruneSettings`.
        named: options that were given one by one, and their values.

    Raises:
        ValueError: one is.
    """
    for name in _PRESETS[settings.preset].keys() & named.keys():
        given, filled = (str(value).lower() for value in (named[name], getattr(settings, name)))
        if given != filled:
            raise ValueError(
                f"prune.{name}={given} goes against prune.preset={settings.preset}, which sets it to {filled}: leave "
                "one of them out. What a preset sets may also be asked for option by option, without it"
            )
