"""What may the settings of a data set be?  Refused by name before anything is read, not somewhere inside a library."""

from __future__ import annotations

from snp.core.values import path_of

__all__ = ["path_given", "require_at_least", "require_seed", "require_share"]

_LARGEST_SEED = 2**63 - 1  # of torch


def require_at_least(*, may_be_none: bool = True, **numbers: tuple[int | None, int]) -> None:
    """Check settings against their smallest value.

    Args:
        may_be_none: None stands for "not given".
        **numbers: name -> value and smallest value.

    Raises:
        ValueError: one of them is smaller, or no whole number.
    """
    for key, (value, least) in numbers.items():
        if value is None and may_be_none:
            continue
        if type(value) is not int:
            raise ValueError(f"data.{key} must be a whole number of at least {least}, found {value!r}")
        if value < least:
            raise ValueError(f"data.{key}={value}: choose at least {least}")


def require_share(name: str, value: object) -> None:
    """Check that a setting is a share, below 1; 0 is none.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"data.{name} must be a number in [0, 1), found {value!r}")
    if not 0 <= value < 1:
        raise ValueError(f"data.{name}={value}: choose a number in [0, 1); 0 for none")


def require_seed(name: str, value: object) -> None:
    """Check that a setting is a seed.

    Raises:
        ValueError: it is not.
    """
    if type(value) is not int or not 0 <= value <= _LARGEST_SEED:
        raise ValueError(f"data.{name} must be a whole number from 0 to {_LARGEST_SEED}, found {value!r}")


def path_given(name: str, value: object) -> str | None:
    """The path as text, None where there is none.

    Raises:
        ValueError: it is no path.
    """
    return None if value is None else path_of(value, f"data.{name}")
