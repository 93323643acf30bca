"""How does a class of options say what each may be, and what is wrong with what it was given?

Options, their defaults, limits and meaning are fields of one pydantic dataclass; its docstring and every refusal are
made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import ConfigDict, Field, ValidationError

from snp.core.registry import close_to

__all__ = ["STRICT", "named", "option", "rule"]

# No value is bent into another type, none is infinite, and names that are not known are refused.
STRICT = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")
_LIMITS = ("gt", "ge", "lt", "le")
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a name"}
T = TypeVar("T")


def option(default: Any, meaning: str, **limits: Any) -> Any:
    """One option.

    Args:
        default: ``...`` where there is none.
        meaning: a phrase for docstrings, configuration files and help.
        **limits: as ``pydantic.Field`` takes them: ``gt``, ``ge``, ``lt``, ``le``; lists are ``strict=False`` with
            one of ``examples``.
    """
    return Field(default, description=meaning, **limits)


def named(where: Callable[[Mapping[str, Any]], str]) -> Callable[[type[T]], type[T]]:
    """For dataclasses of options: what is wrong is a sentence that names the option, and the docstring lists them all.

    Args:
        where: the options given -> what users write in front of their names: ``prune``.
    """

    def wrap(cls: type[T]) -> type[T]:
        options: dict[str, Any] = cls.__pydantic_fields__  # type: ignore[attr-defined]
        validated: Callable[..., None] = cls.__init__

        def init(self: T, *args: Any, **keywords: Any) -> None:
            given = dict(zip(options, args, strict=False)) | keywords
            try:
                validated(self, **given)
            except ValidationError as error:
                found: Mapping[str, Any] = error.errors()[0]
                raise ValueError(_sentence(found, where(given), options, given)) from None

        cls.__init__ = init  # type: ignore[assignment,method-assign]
        lines = [f"    {name}: {entry.description}; {rule(entry)}." for name, entry in options.items()]
        cls.__doc__ = "\n".join([(cls.__doc__ or "").rstrip(), "", "Attributes:", *lines, ""])
        return cls

    return wrap


def _sentence(error: Mapping[str, Any], where: str, options: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    if error["type"] == "value_error":  # raised by the class itself, where options contradict each other
        return str(error["ctx"]["error"])
    name = str(error["loc"][0])
    if name not in options:
        closest = close_to(name, list(options), f"{where}.")
        return f"there is no option {where}.{name}{closest or '; there are ' + ', '.join(options)}"
    if name not in given:
        return f"{where}.{name} is not given: it must be {rule(options[name])}"
    return f"{where}.{name} must be {rule(options[name])}, found {given[name]!r}"


def rule(field: Any) -> str:
    """Which values an option may have, in words.

    Args:
        field: of the class's ``__pydantic_fields__``.
    """
    kind = field.annotation
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(parts)}"
    names = [name for part in parts if get_origin(part) is Literal for name in get_args(part)]
    if bool in parts:  # a switch that has further states
        return f"true, false or {' or '.join(names)}"
    if any(get_origin(_plain(part)) is tuple for part in (kind, *parts)):
        return " or ".join([*names, f"a list such as {list(field.examples[0])}"])
    inner = kind if get_origin(kind) is Mapping else next((part for part in parts if part is not type(None)), kind)
    bounds = field.metadata
    if get_origin(inner) is Annotated:  # a number beside which names may stand
        inner, bounds = get_args(inner)[0], get_args(inner)[1].metadata
    limits = {name: getattr(limit, name) for limit in bounds for name in _LIMITS if hasattr(limit, name)}
    words = _KINDS.get(inner, "a mapping") + _within(limits, is_whole=inner is int)
    return " or ".join([words, *names, *(["null"] if type(None) in parts else [])])


def _plain(kind: Any) -> Any:
    """A type without its limits."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _within(limits: Mapping[str, float], *, is_whole: bool) -> str:
    low, high = limits.get("gt", limits.get("ge")), limits.get("lt", limits.get("le"))
    if low is not None and high is not None and is_whole:
        return f" from {low} to {high - ('lt' in limits)}"
    if low is not None and high is not None:
        return f" in {'(' if 'gt' in limits else '['}{low:g}, {high:g}{')' if 'lt' in limits else ']'}"
    if low is not None:
        return f" above {low:g}" if "gt" in limits else f" of at least {low:g}"
    return ""
