"""Which numbers of single modules make a network what it is, beside its architecture and its weights?

Rates of what is dropped, epsilons and momenta of norms, whether images of other sizes are taken: a network computes the
same on one batch without most of them, and learns or reads otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

__all__ = ["Settings", "kinds_apart", "settings_apart", "with_settings"]

# Of modules that are no modules of torch, as far as no cut and no call changes them.
_NAMES = frozenset(
    "p drop_prob drop_rate dropout attention_dropout activation_dropout eps variance_epsilon momentum "
    "dynamic_img_size dynamic_img_pad strict_img_size".split()
)
_PLAIN = (bool, int, float, str, type(None))

Settings = Mapping[str, Mapping[str, Any]]


def settings_apart(wanted: nn.Module, found: nn.Module) -> dict[str, dict[str, Any]]:
    """Module -> setting -> its value in ``wanted``, where modules of that name in ``found`` have another one."""
    others, apart = dict(found.named_modules()), dict[str, dict[str, Any]]()
    for name, module in wanted.named_modules():
        theirs = _settings_of(others[name]) if name in others else {}
        differing = {key: value for key, value in _settings_of(module).items() if theirs.get(key, value) != value}
        if differing:
            apart[name] = differing
    return apart


def kinds_apart(wanted: nn.Module, found: nn.Module) -> str:
    """The first module that is of another kind, or set otherwise, in words; empty where there is none."""
    others = dict(found.named_modules())
    for name, module in wanted.named_modules():
        kinds = [type(each).__name__ for each in (module, others.get(name))]
        if kinds[0] != kinds[1]:
            return f"its {name} is a {kinds[1]} where the network that was saved has a {kinds[0]}"
    for name, settings in settings_apart(wanted, found).items():
        key, value = next(iter(settings.items()))
        return f"its {name}.{key} is not {value}, as in the network that was saved"
    return ""


def with_settings(model: nn.Module, settings: Settings) -> nn.Module:
    """The network itself, with settings of its modules changed.

    Args:
        model: just built.
        settings: as :func:`settings_apart` finds them; they may come from anywhere.

    Raises:
        ValueError: they name something that is no setting of this network.
    """
    modules = dict(model.named_modules())
    for name, values in settings.items():
        known = _settings_of(modules[name]) if name in modules else {}
        for key, value in values.items():
            given = tuple(value) if isinstance(value, list) else value
            if key not in known or not _is_plain(given):
                raise ValueError(
                    f"plan.json sets {name}.{key}, which is no number or word of the network that it names"
                )
            setattr(modules[name], key, given)
    return model


def _settings_of(module: nn.Module) -> dict[str, Any]:
    is_torch = type(module).__module__.startswith("torch.nn.")
    return {
        key: value
        for key, value in vars(module).items()
        if (is_torch or key in _NAMES) and not key.startswith("_") and key != "training" and _is_plain(value)
    }


def _is_plain(value: object) -> bool:
    parts = value if isinstance(value, tuple) else (value,)
    return all(isinstance(part, _PLAIN) for part in parts)
