"""Which options were given that nothing looks at?  They are named, not refused: sweeps give them to all their runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from snp.settings import PLANNERS, PruneSettings

__all__ = ["idle_options"]

_SEQUENTIAL = ("intercept", "repair", "rectify", "softmax", "refit_all")


def idle_options(settings: PruneSettings) -> list[str]:
    """A sentence for every option that is not as it is by itself, and changes nothing beside the others.

    Args:
        settings: of the prune.
    """
    known = type(settings).__pydantic_fields__  # type: ignore[attr-defined]
    return [
        f"prune.{name}={str(getattr(settings, name)).lower()} changes nothing without {needs}"
        for name, needs in _needs(settings)
        if getattr(settings, name) != known[name].default
    ]


def _needs(settings: PruneSettings) -> Iterator[tuple[str, str]]:
    """Options that are not looked at, and without what."""
    if not settings.is_tuned:
        for field in fields(settings):
            if field.name.startswith("tune_"):
                yield field.name, "prune.reconstruct=tuned"
    if not settings.is_sequential:
        for name in _SEQUENTIAL:
            yield name, "a fit in sequence (prune.calibration=sequential, prune.reconstruct=true)"
    # Planners of other packages may look at anything, and a preset fills these two.
    if settings.planner in PLANNERS.own and settings.planner != "snp" and settings.preset != "paper":
        for name in ("ordering", "cut"):
            yield name, "prune.planner=snp"
