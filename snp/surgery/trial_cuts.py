"""Which groups can be cut without the model's own code going wrong?  Cuts on trial, before anything is measured."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from torch import nn

from snp.graph.batches import Batch
from snp.graph.heads import AttentionLayer
from snp.graph.not_finite import refuse_outputs_not_finite
from snp.graph.units import UnitGroup
from snp.plan.plan import GroupPlan, PruningPlan
from snp.surgery.checks import SelfCheckError, self_check
from snp.surgery.surgery import cut, masked_weights, with_weights
from snp.surgery.training_mode import training_of

__all__ = ["confirm", "culprits"]

_Decide = Callable[[UnitGroup, int], GroupPlan]


def confirm(
    model: nn.Module, groups: Sequence[UnitGroup], batch: Batch, attention: tuple[AttentionLayer, ...] = ()
) -> tuple[tuple[UnitGroup, ...], dict[str, str]]:
    """Try cuts of every group; drop the groups whose cut the model's own code does not bear.

    Label propagation knows which tensors belong together, not whether ``forward`` computes with sizes fixed at
    construction, or with positions among channels (shuffles, halves). So the trials cut irregular sets of different
    sizes in different groups, and every unit once. Only when a trial fails, ever smaller parts of the groups are
    tried, each beside all that have passed: what passes in the end has passed together. The network is tried as it is
    evaluated and, where it runs without labels, as it is trained.

    Returns:
        The groups that passed, and name -> reason for those that did not.

    Raises:
        ValueError: none passed, and the outputs of the network itself are not finite.
    """
    trials = tuple(
        lambda group, number, second_half=second_half: _trial(group, number, second_half)
        for second_half in (False, True)
    )
    refused = _refused(_Trials(model, batch, attention, trials), [], _alike(groups)) if groups else {}
    if refused and len(refused) == len(groups):
        refuse_outputs_not_finite(model, batch)
    return tuple(group for group in groups if group.name not in refused), refused


def culprits(model: nn.Module, plan: PruningPlan, batch: Batch) -> dict[str, str]:
    """Name -> reason for groups of a plan whose very cut the model's own code does not bear; empty for a sound plan.

    Trials cannot try all numbers: code may ask for a multiple of something.
    """
    chosen = {decision.group.name: decision for decision in plan.groups}
    trials = _Trials(model, batch, plan.attention, (lambda group, number: chosen[group.name],))
    return _refused(trials, [], _alike([decision.group for decision in plan.groups if len(decision.cut)]))


def _alike(groups: Sequence[UnitGroup]) -> list[UnitGroup]:
    """The same place of every block fails alike: side by side, few halves hold both good and bad."""
    return sorted(groups, key=lambda group: re.sub(r"\d+", "", group.name) + group.name.partition("#")[2])


class _Trials:
    """Cuts of groups in a network, several of the same groups."""

    def __init__(
        self, model: nn.Module, batch: Batch, attention: tuple[AttentionLayer, ...], decides: Sequence[_Decide]
    ) -> None:
        self._model, self._batch, self._attention, self._decides = model, batch, attention, decides
        self._training = training_of(model, batch)

    def run(self, groups: Sequence[UnitGroup]) -> None:
        """Try all cuts of these groups together.

        Raises:
            SelfCheckError: one of them fails.
        """
        for decide in self._decides:
            decisions = tuple(decide(group, number) for number, group in enumerate(groups))
            trial = PruningPlan(decisions, attention=self._attention)
            masked = with_weights(self._model, masked_weights(self._model, trial), share=True)
            try:
                small = cut(masked, trial, share=True)
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
                raise SelfCheckError(f"its layers cannot be cut: {type(error).__name__}: {error}") from error
            self_check(masked, small, self._batch, trial)
            self._training.check(masked, small, self._batch, trial)


def _refused(trials: _Trials, passed: list[UnitGroup], groups: Sequence[UnitGroup]) -> dict[str, str]:
    """Reasons of the groups that fail beside those that have passed; the others are added to these."""
    if not groups:
        return {}
    try:
        trials.run([*passed, *groups])
    except SelfCheckError as error:
        if len(groups) == 1:
            return {groups[0].name: f"a trial cut failed: {error}"}
        middle = len(groups) // 2
        first = _refused(trials, passed, groups[:middle])
        return first | _refused(trials, passed, groups[middle:])
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
