"""Which weights may the pruned network get?  Those of fits, of plain deletion, and of steps between the two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from snp.surgery.surgery import named_tensors

__all__ = ["Candidates", "Tensors"]

# Steps from deletion to a fit.
_SHARES = (1.0, 0.75, 0.5, 0.25)

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Weights that the pruned network may get: of every fit, steps from it to deletion, and at last deletion itself.

    Attributes:
        deleted: name -> tensor of plain deletion; what is not named is the dense network's.
        fits: the same of every fit.
    """

    deleted: Tensors
    fits: tuple[Tensors, ...]

    def __len__(self) -> int:
        return len(self.fits) * len(_SHARES) + 1

    def tensors(self, number: int, model: nn.Module) -> Tensors:
        """Name -> tensor of everything that differs from the dense network, or does so in another candidate."""
        dense = named_tensors(model)
        names = self.deleted.keys() | {name for fit in self.fits for name in fit}
        deleted = {name: self.deleted.get(name, dense[name]).detach() for name in sorted(names)}
        if number == len(self) - 1:
            return deleted
        fit, share = self.fits[number // len(_SHARES)], _SHARES[number % len(_SHARES)]
        if share == 1:
            return {**deleted, **fit}
        return {name: start + share * (fit.get(name, start).to(start) - start) for name, start in deleted.items()}
