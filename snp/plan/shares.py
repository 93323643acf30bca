"""Which indices of a tensor's dimension do a group's units own?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

__all__ = ["Share"]


@dataclass(frozen=True, eq=False)
class Share:
    """Indices of one dimension that a group's units own, shape [U, m], spread over ``num_blocks`` kernel blocks.

    Of heads (``is_block``) the parts that other groups own of them.
    """

    group: int
    index: Tensor
    is_block: bool
    num_blocks: int
    parts: list[Share] = field(default_factory=list)

    def renumbered(self, places: Mapping[int, int]) -> Share:
        """The same share of a group that has another number now."""
        return replace(self, group=places[self.group], parts=[part.renumbered(places) for part in self.parts])
