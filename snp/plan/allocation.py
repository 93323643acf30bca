"""How many units of each group does a level keep?  Values, so that a choice can be stored, compared and moved."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from snp.core import cuts
from snp.core.cuts import Curve

__all__ = ["Allocation", "Curves", "PooledScores", "equal_shares"]


@dataclass(frozen=True, eq=False)
class Curves:
    """A cut of :mod:`snp.core.cuts`, and what it looks at in each group.

    Attributes:
        cut: its name.
        curves: one per group.
    """

    cut: str
    curves: tuple[Curve, ...]

    def num_kept(self, group: int, level: float) -> int:
        """Units of a group at a level in (0, 1], in 1..U, before rounding."""
        return cuts.load(self.cut)(self.curves[group], level)

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by name."""
        found: dict[str, Tensor] = {}
        for number, curve in enumerate(self.curves):
            found[f"{number}/kept_variance"] = curve.kept_variance
            found[f"{number}/unit_cost"] = torch.tensor(curve.unit_cost, dtype=torch.float64)
            if curve.damage is not None:
                found[f"{number}/damage"] = curve.damage
        return {f"{self.cut}/{name}": tensor for name, tensor in found.items()}


@dataclass(frozen=True, eq=False)
class PooledScores:
    """One threshold on the scores of all units of all groups; the level is the share of all units above it.

    Attributes:
        scores: one tensor per group, shape [U].
    """

    scores: tuple[Tensor, ...]

    @cached_property
    def _pooled(self) -> Tensor:
        return torch.cat(self.scores).sort(descending=True).values

    def num_kept(self, group: int, level: float) -> int:
        """Units of a group at a level in (0, 1], in 1..U, before rounding."""
        count = int(level * len(self._pooled) + 0.5)
        threshold = self._pooled[count - 1] if count else torch.inf
        return max(1, int((self.scores[group] >= threshold).sum()))

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by name."""
        return {f"{number}/score": scores for number, scores in enumerate(self.scores)}


Allocation = Curves | PooledScores


def equal_shares(sizes: list[int]) -> Curves:
    """The same share of every group.

    Args:
        sizes: units of each.
    """
    return Curves("uniform", tuple(Curve(torch.ones(size)) for size in sizes))
