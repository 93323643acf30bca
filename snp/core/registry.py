"""Which methods of a kind are there, and what is behind a name?  Files of a folder, and entry points of other packages.

Whoever installs a package with ``[project.entry-points."snp.orderings"] mine = "their.module:order"`` can ask for
``prune.ordering=mine``.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from types import MappingProxyType
from typing import Any

from snp.core.foreign import code_of

__all__ = ["Registry", "close_to"]


@dataclass(frozen=True, eq=False)
class Registry:
    """Methods of one kind, by name.

    Attributes:
        option: what users call the choice, for messages: ``prune.ordering``.
        group: of entry points: ``snp.orderings``.
        package: every file of this folder that does not start with an underscore is a method; it is not imported until
            it is asked for.
        attribute: what stands for the method in its file; empty: the module itself.
        others: name -> ``module:attribute`` of methods of this package outside such a folder.
    """

    option: str
    group: str
    package: str = ""
    attribute: str = ""
    others: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @cached_property
    def own(self) -> list[str]:
        """Names that this package brings, sorted."""
        spec = importlib.util.find_spec(self.package) if self.package else None
        places = (spec.submodule_search_locations if spec is not None else None) or []
        files = (module.name for module in pkgutil.iter_modules(places) if not module.ispkg)
        return sorted([*self.others, *(name for name in files if not name.startswith("_"))])

    def names(self) -> list[str]:
        """All names, those of other packages last."""
        own = self.own
        entries = importlib.metadata.entry_points(group=self.group)
        return own + sorted({entry.name for entry in entries} - set(own))

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in self.names()

    def load(self, name: str) -> Any:
        """The method of that name; this package's own before one of the same name from elsewhere.

        Raises:
            ValueError: there is no such method, or it cannot be imported.
        """
        if name in self.others:
            module, _, attribute = self.others[name].partition(":")
            return getattr(importlib.import_module(module), attribute)
        if name in self.own:
            found: Any = importlib.import_module(f"{self.package}.{name}")
            return getattr(found, self.attribute) if self.attribute else found
        for entry in importlib.metadata.entry_points(group=self.group, name=name):
            try:
                return entry.load()
            except (ImportError, AttributeError) as error:
                raise ValueError(f"{self.option}={name}: {entry.value} cannot be imported: {error}") from error
        raise ValueError(self._refusal(name))

    def code(self, name: str) -> tuple[str, ...]:
        """Hash of the file with the method of that name; nothing for this package's own, and where there is none."""
        if name in self.own or name not in self:
            return ()
        self.load(name)
        return code_of(entry.module for entry in importlib.metadata.entry_points(group=self.group, name=name))

    def check(self, name: str, also: tuple[str, ...] = ()) -> None:
        """Refuse a name that is none.

        Args:
            name: what was asked for.
            also: further values that the option may have.

        Raises:
            ValueError: there is no such method.
        """
        if name not in also and name not in self:
            raise ValueError(self._refusal(name, also))

    def _refusal(self, name: str, also: tuple[str, ...] = ()) -> str:
        known = [*also, *self.names()]
        return f"{self.option} must be one of {', '.join(known)}; found {name!r}{close_to(name, known)}"


def close_to(name: str, known: list[str], prefix: str = "") -> str:
    """``; did you mean ...?`` where a name is nearly one of those known, else nothing."""
    close = get_close_matches(name, known, 1)
    return f"; did you mean {prefix}{close[0]}?" if close else ""
