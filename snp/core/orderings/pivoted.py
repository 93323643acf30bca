"""Which unit adds the most energy to those already chosen?  Greedy forward selection: pivoted Cholesky."""

import torch
from torch import Tensor

from snp.core.orderings import GroupStatistics, descending
from snp.core.redundancy import copies_last

__all__ = ["order"]


def order(statistics: GroupStatistics) -> Tensor:
    """Permutation that takes the unit of largest remaining energy at every step, O(C^3) in C vector steps."""
    return copies_last(statistics, _order)


def _order(statistics: GroupStatistics) -> Tensor:
    if statistics.columns_per_unit > 1:
        return _by_blocks(statistics)
    gram, size = statistics.gram, statistics.num_units
    remaining = gram.diagonal().clone()
    factor = torch.zeros_like(gram)
    chosen: list[int] = []
    floor = remaining.max().clamp_min(0) * size * torch.finfo(gram.dtype).eps
    is_open = torch.ones(size, dtype=torch.bool, device=gram.device)
    for step in range(size):
        unit = int(torch.where(is_open, remaining, -torch.inf).argmax())
        if remaining[unit] <= floor:
            break
        column = gram[:, unit] - factor[:, :step] @ factor[unit, :step]
        factor[:, step] = column / remaining[unit].sqrt()
        remaining = remaining - factor[:, step].square()
        is_open[unit] = False
        chosen.append(unit)
    return _with_rest(chosen, gram.diagonal(), is_open)


def _with_rest(chosen: list[int], energy: Tensor, is_open: Tensor) -> Tensor:
    """The chosen units, then those without energy of their own by plain energy."""
    by_energy = descending(energy)
    return torch.cat([torch.tensor(chosen, dtype=torch.int64, device=energy.device), by_energy[is_open[by_energy]]])


def _by_blocks(statistics: GroupStatistics) -> Tensor:
    """The same with all columns of a unit taken at once (Schur complement of its block)."""
    size, width = statistics.num_units, statistics.columns_per_unit
    rest = statistics.gram.clone()
    energy = statistics.gram.diagonal().reshape(size, width).sum(dim=1)
    floor = energy.max().clamp_min(0) * size * torch.finfo(rest.dtype).eps
    is_open = torch.ones(size, dtype=torch.bool, device=rest.device)
    chosen: list[int] = []
    for _ in range(size):
        remaining = rest.diagonal().reshape(size, width).sum(dim=1)
        unit = int(torch.where(is_open, remaining, -torch.inf).argmax())
        if remaining[unit] <= floor:
            break
        rows = rest[unit * width : (unit + 1) * width]
        block = rows[:, unit * width : (unit + 1) * width]
        rest = rest - rows.T @ torch.linalg.pinv(block, hermitian=True) @ rows
        is_open[unit] = False
        chosen.append(unit)
    return _with_rest(chosen, energy, is_open)
