"""What may be asked of a prune?  One validated set of options, the same for the library and the command line."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["PruneSettings"]

_TARGETS = ("target_var", "target_units", "target_macs", "target_params")


@dataclass(frozen=True)
class PruneSettings:
    """Options of one prune; at most one target may be given, none means half of the MACs.

    Attributes:
        target_var: cumulative variance that every group keeps, in (0, 1]; goes with ``cut="variance"``.
        target_units: share of units that every group keeps, in (0, 1]; goes with ``cut="uniform"``.
        target_macs: share of the dense network's multiply-accumulates that is left, in (0, 1].
        target_params: share of the dense network's parameters that is left, in (0, 1].
        planner: name of a file in ``snp/planners``.
        ordering: name of a file in ``snp/core/orderings``.
        cut: name of a file in ``snp/core/cuts``.
        reconstruct: fold the cut units into the weights that stay (False: plain deletion).
        ridge: of the least-squares fit, relative to the mean energy of a kept column, >= 0.
        ignore: shell patterns of group names that are left alone.
        streams: cut residual streams, too, not only units inside blocks.
        round_to: kept units are a multiple of this in groups of at least 16 times as many units; 1 switches it off.
        seed: of everything random.
    """

    target_var: float | None = None
    target_units: float | None = None
    target_macs: float | None = None
    target_params: float | None = None
    planner: str = "snp"
    ordering: str = "zca"
    cut: str = "variance"
    reconstruct: bool = True
    ridge: float = 1e-4
    ignore: tuple[str, ...] = ()
    streams: bool = False
    round_to: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        given = [name for name in _TARGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"prune.{' and prune.'.join(given)} exclude each other: give one of them")
        for name in given:
            value = getattr(self, name)
            if not _is_number(value) or not 0 < value <= 1:
                raise ValueError(f"prune.{name} must be a number in (0, 1], found {value!r}")
        wanted_cut = {"target_var": "variance", "target_units": "uniform"}.get(given[0] if given else "")
        if wanted_cut is not None and self.cut != wanted_cut:
            raise ValueError(
                f"prune.{given[0]} goes with prune.cut={wanted_cut}, found prune.cut={self.cut!r}: change the cut, or "
                "give prune.target_macs or prune.target_params, which go with every cut"
            )
        if not _is_number(self.ridge) or self.ridge < 0:
            raise ValueError(f"prune.ridge must be a number of at least 0, found {self.ridge!r}")
        if not isinstance(self.round_to, int) or self.round_to < 1:
            raise ValueError(f"prune.round_to must be a whole number of at least 1, found {self.round_to!r}")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be a whole number of at least 0, found {self.seed!r}")
        for name in ("reconstruct", "streams"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"prune.{name} must be true or false, found {getattr(self, name)!r}")
        if isinstance(self.ignore, str) or not all(isinstance(pattern, str) for pattern in self.ignore):
            raise ValueError(f"prune.ignore must be a list of patterns such as ['head*'], found {self.ignore!r}")
        object.__setattr__(self, "ignore", tuple(self.ignore))

    @property
    def target(self) -> tuple[str, float]:
        """Name of the target without ``target_`` and its value."""
        for name in _TARGETS:
            if getattr(self, name) is not None:
                return name.removeprefix("target_"), float(getattr(self, name))
        return "macs", 0.5

    def to_json(self) -> dict[str, Any]:
        """All options as JSON values."""
        plain = asdict(self) | {"ignore": list(self.ignore)}
        return {key: value for key, value in plain.items() if key not in _TARGETS} | {"target": dict([self.target])}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
