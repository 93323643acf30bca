"""Which options does one word stand for?"""

from __future__ import annotations

from typing import Any

__all__ = ["fill_in"]

# The dense network's activations are all that weights are fitted on, one transfer per kernel.
_JOINT = {"calibration": "joint", "conv_gram": "channel", "trials": False}
_PRESETS: dict[str, dict[str, Any]] = {
    "paper": _JOINT | {"ordering": "zca", "cut": "variance"},
    "quick": _JOINT,
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
