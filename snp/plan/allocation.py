"""How many units of each group does a level keep?  Values, so that a choice can be stored, compared and moved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from snp.core import cuts
from snp.core.agreed import checked_count, refuse_falling
from snp.core.cuts import Curve

__all__ = ["Allocation", "BlockCurve", "Curves", "PooledScores", "equal_shares"]

_LOWEST = 1e-15  # a level below which every price is the same


@dataclass(frozen=True)
class BlockCurve:
    """What a block does and saves as a whole.

    Attributes:
        damage: where it goes, in the unit of the damages of its groups.
        fixed_cost: of its layers that no group cuts, in the unit of the costs of units.
        groups: numbers of the groups inside it.
    """

    damage: float
    fixed_cost: float
    groups: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Curves:
    """A cut of :mod:`snp.core.cuts`, and what it looks at in each group.

    Attributes:
        cut: its name.
        curves: one per group.
        blocks: of blocks that may go as a whole; with the cut ``output`` only.
    """

    cut: str
    curves: tuple[Curve, ...]
    blocks: tuple[BlockCurve, ...] = ()

    def num_kept(self, group: int, level: float) -> int:
        """Units of a group at a level in (0, 1], in 1..U, before rounding.

        Raises:
            ValueError: the cut gives no such number.
        """
        curve = self.curves[group]
        return checked_count(self._cut(curve, level), len(curve.kept_variance), self._option)

    @cached_property
    def _cut(self) -> Callable[[Curve, float], int]:
        return cuts.load(self.cut)

    @property
    def _option(self) -> str:
        return f"{cuts.REGISTRY.option}={self.cut}"

    def refuse_falling(self) -> None:
        """Hold a cut of another package to not falling with the level; a target is sought by that.

        Raises:
            ValueError: the cut falls, or gives no number in 1..U.
        """
        if self.cut in cuts.REGISTRY.own:
            return
        for group in range(len(self.curves)):
            refuse_falling(partial(self.num_kept, group), self._option)

    def removed(self, level: float) -> tuple[int, ...]:
        """Numbers of the blocks that do less damage than they cost at a level; some group is always left."""
        price = 1 / max(level, _LOWEST) - 1
        found = [number for number, block in enumerate(self.blocks) if block.damage < self._kept(block, level, price)]
        while found and len({group for number in found for group in self.blocks[number].groups}) == len(self.curves):
            found.remove(max(found, key=lambda number: self.blocks[number].damage))
        return tuple(found)

    def _kept(self, block: BlockCurve, level: float, price: float) -> float:
        """What a block costs that stays, with its groups cut at a level: damage, and the price of what is left."""
        damage, cost = 0.0, block.fixed_cost
        for group in block.groups:
            curve, count = self.curves[group], self.num_kept(group, level)
            assert curve.damage is not None, "blocks are weighed against damages"
            damage, cost = damage + float(curve.damage[count]), cost + curve.unit_cost * count
        return damage + price * max(cost, 0.0)

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by name."""
        found: dict[str, Tensor] = {}
        for number, curve in enumerate(self.curves):
            found[f"{number}/kept_variance"] = curve.kept_variance
            found[f"{number}/unit_cost"] = torch.tensor(curve.unit_cost, dtype=torch.float64)
            if curve.damage is not None:
                found[f"{number}/damage"] = curve.damage
        for number, block in enumerate(self.blocks):
            found[f"blocks/{number}"] = torch.tensor([block.damage, block.fixed_cost], dtype=torch.float64)
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
