"""Does the small network compute what the dense network with the same units masked computes?"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snp.graph.batches import Batch
from snp.graph.heads import AttentionLayer
from snp.graph.units import UnitGroup
from snp.plan.plan import GroupPlan, PruningPlan
from snp.surgery.surgery import cut, masked_weights, with_weights

__all__ = ["SelfCheckError", "confirm", "self_check"]


class SelfCheckError(RuntimeError):
    """The small network does not compute what the dense network with the same units masked computes."""


def _leaves(output: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def self_check(masked: nn.Module, small: nn.Module, batch: Batch, tolerance: float = 1e-3) -> float:
    """Compare the masked dense network with the small one on one batch.

    Sums of fewer terms round differently, and a deep network may let rounding grow until outputs have little in
    common. So networks that differ are compared once more in double precision: rounding all but vanishes there, a unit
    too much or too few does not.

    Args:
        masked: dense shapes, cut columns zero, folded weights in place; evaluation mode.
        small: the network after surgery.
        batch: inputs.
        tolerance: of the difference relative to the largest output value.

    Returns:
        Largest relative difference of any output tensor, in the precision in which it was accepted.

    Raises:
        SelfCheckError: the networks differ.
    """
    worst = _worst(masked, small, batch)
    if worst > tolerance:
        exact = _worst_in_double(masked, small, batch)
        if exact is None or exact > tolerance:
            raise SelfCheckError(
                f"the pruned network's output differs from the masked dense network's by {worst:.2e} of the largest "
                f"output (allowed {tolerance:.0e})" + ("" if exact is None else f", by {exact:.2e} in double precision")
            )
        return exact
    return worst


def _worst(masked: nn.Module, small: nn.Module, batch: Batch) -> float:
    with torch.no_grad():
        try:
            wanted, found = _leaves(batch.call(masked)), _leaves(batch.call(small))
        except Exception as error:  # whatever the model's own code raises on sizes it did not expect
            raise SelfCheckError(f"the pruned network does not run: {error}") from error
    if len(wanted) != len(found):
        raise SelfCheckError(f"the number of outputs changed from {len(wanted)} to {len(found)}")
    return max((_difference(want, have) for want, have in zip(wanted, found, strict=True)), default=0.0)


def _worst_in_double(masked: nn.Module, small: nn.Module, batch: Batch) -> float | None:
    """The same in double precision; None where the model's own code insists on another, or memory is short."""
    try:
        return _worst(copy.deepcopy(masked).double(), copy.deepcopy(small).double(), batch.mapped(_double))
    except (SelfCheckError, torch.OutOfMemoryError):
        return None


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _difference(want: Tensor, have: Tensor) -> float:
    """Largest difference relative to the largest wanted value; infinite where only one of the two is finite."""
    if want.shape != have.shape:
        raise SelfCheckError(f"output shape changed from {tuple(want.shape)} to {tuple(have.shape)}")
    is_finite = torch.isfinite(want)
    same_rest = torch.equal(want[~is_finite].nan_to_num(), have[~is_finite].nan_to_num())
    if not torch.equal(is_finite, torch.isfinite(have)) or not same_rest:
        return float("inf")
    want, have = want[is_finite].double(), have[is_finite].double()
    if want.numel() == 0:
        return 0.0
    return float((want - have).abs().max()) / (float(want.abs().max()) or 1.0)


def confirm(
    model: nn.Module, groups: Sequence[UnitGroup], batch: Batch, attention: tuple[AttentionLayer, ...] = ()
) -> tuple[tuple[UnitGroup, ...], dict[str, str]]:
    """Try cuts of every group; drop the groups whose cut the model's own code does not bear.

    Label propagation knows which tensors belong together, not whether ``forward`` computes with sizes fixed at
    construction, or with positions among channels (shuffles, halves). So the trials cut irregular sets of different
    sizes in different groups, and every unit once. Only when a trial fails, ever smaller parts of the groups are
    tried, each beside all that have passed: what passes in the end has passed together.

    Returns:
        The groups that passed, and name -> reason for those that did not.
    """
    # The same place of every block fails alike: side by side, few halves hold both good and bad.
    alike = sorted(groups, key=lambda group: re.sub(r"\d+", "", group.name) + group.name.partition("#")[2])
    passed: list[UnitGroup] = []
    refused = _refused(model, passed, alike, batch, attention)
    return tuple(group for group in groups if group.name not in refused), refused


def _refused(
    model: nn.Module,
    passed: list[UnitGroup],
    groups: Sequence[UnitGroup],
    batch: Batch,
    attention: tuple[AttentionLayer, ...],
) -> dict[str, str]:
    """Reasons of the groups that fail beside those that have passed; the others are added to these."""
    if not groups:
        return {}
    try:
        for second_half in (False, True):
            tried = enumerate([*passed, *groups])
            decisions = tuple(_trial(group, number, second_half) for number, group in tried)
            trial = PruningPlan(decisions, attention=attention)
            masked = with_weights(model, masked_weights(model, trial), share=True)
            self_check(masked, cut(masked, trial, share=True), batch)
    except SelfCheckError as error:
        if len(groups) == 1:
            return {groups[0].name: f"a trial cut failed: {error}"}
        middle = len(groups) // 2
        first = _refused(model, passed, groups[:middle], batch, attention)
        return first | _refused(model, passed, groups[middle:], batch, attention)
    passed += groups
    return {}


def _trial(group: UnitGroup, number: int, second_half: bool) -> GroupPlan:
    """Some of each partition's units, the others at the second trial; neighbouring groups keep different shares."""
    generator, size = torch.Generator().manual_seed(number), group.units_per_partition
    first = min(size - 1, max(1, size * (3 + number % 3) // 8))
    kept = []
    for partition in range(group.num_partitions):
        shuffled = torch.randperm(size, generator=generator) + partition * size
        kept.append(shuffled[first:] if second_half else shuffled[:first])
    return GroupPlan(group, torch.cat(kept).sort().values)
