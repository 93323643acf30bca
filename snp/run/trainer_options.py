"""What is wrong with the options of a trainer?  Lightning says it in its own words, and often not of which option."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pytorch_lightning import Trainer

from snp.run.refusals import PRECISIONS

__all__ = ["refuse_values", "trainer_refusal"]

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a name", type(None): "null"}
# Lightning takes any number here: below these it divides by zero when training begins, or does as if there were none.
_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
    "num_sanity_val_steps": -1,
    "reload_dataloaders_every_n_epochs": 0,
}
# What every run sets by itself, and what says it instead.
_DECIDED = {
    "max_epochs": "dense.epochs and finetune.epochs say how long is trained",
    "logger": "logger=csv, wandb, both or none says where numbers go",
    "callbacks": "a run has its own",
    "enable_checkpointing": "training keeps its state, all else has none",
    "default_root_dir": "hydra.run.dir is the folder of a run",
}
_PLACES = ("accelerator", "devices", "num_nodes", "strategy")  # what `trainer=auto` finds out by itself


def refuse_values(options: Mapping[str, Any]) -> None:
    """Every option is of a kind that Lightning's trainer takes and left to the user, and no number means nothing.

    Args:
        options: name -> value, as the trainer is given them.

    Raises:
        ValueError: one is not.
    """
    known = get_type_hints(Trainer.__init__)
    for name, value in options.items():
        if name in _DECIDED:
            raise ValueError(f"trainer.{name} cannot be set: {_DECIDED[name]}; leave it out")
        kinds = _kinds(known.get(name))
        names = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
        kinds = tuple(kind for kind in kinds if get_origin(kind) is not Literal)
        if name == "precision" or any(kind not in _WORDS for kind in kinds):
            continue  # it has values of its own
        if (name == "enable_progress_bar" and value == "auto") or (isinstance(value, str) and value in names):
            continue
        # True is a whole number to Python, and a whole number is a number to everybody.
        is_kind = type(value) in kinds or (type(value) is int and float in kinds)
        least = _LEAST.get(name)
        if not is_kind or (least is not None and value is not None and not value >= least):
            raise ValueError(f"trainer.{name} must be {_rule(kinds, names, least)}, found {value!r}")


def _rule(kinds: tuple[Any, ...], names: list[str], least: int | None) -> str:
    """What an option may be, in words."""
    within = "" if least is None else f" of at least {least}"
    words = {kind: word + within * (kind in (int, float)) for kind, word in _WORDS.items()}
    said = [kind for kind in words if kind in kinds and kind is not type(None) and not (kind is int and float in kinds)]
    return " or ".join([*(words[kind] for kind in said), *names, *(["null"] if type(None) in kinds else [])])


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
