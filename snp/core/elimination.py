"""Which unit can go next at the least cost at the consumers' outputs, when the rest is refitted every time?

Greedy backward elimination, the step of Hassibi's optimal brain surgeon (1993) for whole units: removing unit p and
refitting costs tr(W_p S_p W_p^T) with S_p = [(G^-1)_pp]^-1 for the Gram matrix G; then W and G^-1 are downdated and the
next unit is looked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from snp.core.statistics import ReaderStatistics
from snp.core.subspace import columns_of

__all__ = ["Eliminator", "eliminate"]

# Keeps the inverse of a rank-deficient Gram matrix finite; relative to its mean diagonal.
_RIDGE = 1e-5


class Eliminator:
    """One consumer during elimination: the inverse Gram matrix of the units still there, and its folded weights.

    Args:
        gram: shape [U * b, U * b], float64.
        weighted: shape [O, U * b], float64.
        columns_per_unit: b.
    """

    def __init__(self, gram: Tensor, weighted: Tensor, columns_per_unit: int) -> None:
        self._width = columns_per_unit
        scale = gram.diagonal().mean() * _RIDGE
        tiny = torch.finfo(gram.dtype).tiny
        eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        self._inverse = torch.linalg.inv(gram.double() + torch.clamp_min(scale, tiny) * eye)
        # Unit by unit, [U * b, O]: every step looks at all units' weights and must not copy them.
        self._weight = weighted.double().T.clone(memory_format=torch.contiguous_format)

    def costs(self) -> Tensor:
        """Squared output error that each removal would add, shape [U]; meaningless for removed units."""
        num_units, width = len(self._inverse) // self._width, self._width
        blocks = self._inverse.reshape(num_units, width, num_units, width).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        weight = self._weight.reshape(num_units, width, -1)
        energy: Tensor = weight @ weight.transpose(1, 2)
        inverted: Tensor = blocks.reciprocal() if width == 1 else torch.linalg.inv(blocks)
        return (inverted.transpose(1, 2) * energy).sum(dim=(1, 2))

    def remove(self, unit: int) -> None:
        """Take one unit out and fold it into the others."""
        own = slice(unit * self._width, (unit + 1) * self._width)
        block, row = self._inverse[own, own], self._inverse[own]
        gain = row / block if self._width == 1 else torch.linalg.solve(block, row)
        self._weight.addmm_(gain.T, self._weight[own].clone(), alpha=-1)
        self._inverse.addmm_(self._inverse[:, own].clone(), gain, alpha=-1)
        # A removed unit is made independent of the others, so that batched inverses stay defined.
        self._inverse[own], self._inverse[:, own] = 0.0, 0.0
        self._inverse[own, own] = torch.eye(self._width, dtype=gain.dtype, device=gain.device)

    def compact(self, units: Tensor) -> None:
        """Forget all units but these: steps cost as much as the units that are left."""
        columns = columns_of(units, self._width)
        self._inverse = self._inverse[columns][:, columns]
        self._weight = self._weight[columns]


def eliminate(readers: Sequence[ReaderStatistics]) -> tuple[Tensor, Tensor]:
    """Remove one unit after the other, the cheapest first.

    Args:
        readers: of the same U units, one per consumer.

    Returns:
        The order of keeping (the last removed first), shape [U], and the squared output error with the first k units
        of it kept, k = 0..U, shape [U + 1], float64, decreasing to 0.
    """
    eliminators = [Eliminator(reader.gram, reader.weighted, reader.columns_per_unit) for reader in readers]
    device = readers[0].gram.device
    units = torch.arange(readers[0].num_units, device=device)  # those not forgotten yet
    is_open = torch.ones(len(units), dtype=torch.bool, device=device)
    removed: list[int] = []
    error = [0.0]
    while bool(is_open.any()):
        costs = torch.stack([eliminator.costs() for eliminator in eliminators]).sum(dim=0)
        place = int(torch.where(is_open, costs, torch.inf).argmin())
        error.append(error[-1] + max(0.0, float(costs[place])))
        for eliminator in eliminators:
            eliminator.remove(place)
        is_open[place] = False
        removed.append(int(units[place]))
        if int(is_open.sum()) * 4 < len(units) * 3:
            left = is_open.nonzero().flatten()
            for eliminator in eliminators:
                eliminator.compact(left)
            units, is_open = units[left], is_open[left]
    order = torch.tensor(removed[::-1], dtype=torch.int64, device=device)
    return order, torch.tensor(error[::-1], dtype=torch.float64)
