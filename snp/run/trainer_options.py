"""What is wrong with the options of a trainer?  Lightning says it in its own words, and often not of which option."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pytorch_lightning import Trainer

from snp.run.refusals import PRECISIONS

__all__ = ["refuse_kinds", "trainer_refusal"]

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a name", type(None): "null"}
_PLACES = ("accelerator", "devices", "num_nodes", "strategy")  # what `trainer=auto` finds out by itself


def refuse_kinds(options: Mapping[str, Any]) -> None:
    """Every option is of a kind that Lightning's trainer takes.

    Args:
        options: name -> value, as the trainer is given them.

    Raises:
        ValueError: one is not.
    """
    known = get_type_hints(Trainer.__init__)
    for name, value in options.items():
        kinds = _kinds(known.get(name))
        if name == "precision" or any(kind not in _WORDS for kind in kinds):
            continue  # it has values of its own
        if name == "enable_progress_bar" and value == "auto":
            continue
        # True is a whole number to Python, and a whole number is a number to everybody.
        if type(value) not in kinds and not (type(value) is int and float in kinds):
            rule = " or ".join(_WORDS[kind] for kind in _WORDS if kind in kinds)
            raise ValueError(f"trainer.{name} must be {rule}, found {value!r}")


def _kinds(hint: Any) -> tuple[Any, ...]:
    """Types that an annotation allows; nothing that is known of literals, lists and classes of Lightning."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def trainer_refusal(options: Mapping[str, Any], error: Exception) -> ValueError:
    """The refusal by its option, or by the places where a trainer may work.

    Args:
        options: name -> value, as the trainer was given them.
        error: what Lightning raised.
    """
    text = str(error)
    named = [name for name in options if re.search(rf"\b{name}\b", text, re.I)]
    if named == ["precision"]:
        return ValueError(f"trainer.precision must be one of {', '.join(PRECISIONS)}, found {options['precision']!r}")
    blamed = named or [name for name in ("accelerator", "devices") if name in options]
    shown = ", ".join(f"trainer.{name}={options[name]}" for name in blamed) or "trainer"
    hint = "; trainer=auto takes what there is here" if not named or {*named} & {*_PLACES} else ""
    return ValueError(f"{shown}: {text}{hint}")
