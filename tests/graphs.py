"""Small networks written as one expression, and what every group found in them has to pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from snp.graph import CouplingGraph, analyse
from snp.graph.batches import Batch
from snp.graph.units import Slice, UnitGroup
from snp.plan.plan import GroupPlan, PruningPlan
from snp.surgery.checks import self_check
from snp.surgery.surgery import cut, masked_weights, with_weights
from snp.surgery.trial_cuts import confirm
from tests.audit import audit, control, randomise

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Layers by name and a function of them: a network in one expression."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.function = function

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        return self.function(self, *args, **kwargs)


def conv(inputs: int, outputs: int, size: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **options)


def analysed(model: nn.Module, batch: Any = IMAGES) -> CouplingGraph:
    """Analyse, and hold every group found to the audit and the trial cut."""
    randomise(model)
    graph = analyse(model, batch)
    for number, group in enumerate(graph.groups):
        assert audit(model, [group], batch, seed=number) < 1e-4, group.name
        assert control(model, [group], batch, seed=number) > 1e-4, group.name
    passed, refused = confirm(model, graph.groups, Batch.of(batch))
    assert not refused
    assert len(passed) == len(graph.groups)
    return graph


def owned(group: UnitGroup) -> dict[str, set[tuple[str, int, int]]]:
    """Per role the (tensor, dim, width) of the group's slices."""

    def keys(slices: tuple[Slice, ...]) -> set[tuple[str, int, int]]:
        return {(member.tensor, member.dim, member.width) for member in slices}

    return {role: keys(getattr(group, role)) for role in ("producers", "consumers", "others")}


def summary(graph: CouplingGraph) -> dict[str, int]:
    return {group.name: group.num_units for group in graph.groups}


def assert_cut_is_right(model: nn.Module, group: UnitGroup, batch: Any, seed: int) -> None:
    """Random units of a group go; what is left computes what the masked network computes."""
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.randint(1, group.num_units, (1,), generator=generator))
    kept = torch.randperm(group.num_units, generator=generator)[:count].sort().values
    plan = PruningPlan((GroupPlan(group, kept),))
    masked = with_weights(model, masked_weights(model, plan))
    assert self_check(masked, cut(masked, plan), Batch.of(batch)) < 1e-4


def cut_anyhow(model: nn.Module, batch: Any = IMAGES) -> CouplingGraph:
    """The groups, after the audit, the trial, and random irregular cuts of each."""
    graph = analysed(model, batch)
    for group in graph.groups:
        for seed in range(3):
            assert_cut_is_right(model, group, batch, seed)
    return graph


def even_plan(groups: Any, seed: int) -> PruningPlan:
    """The same random number, at least one, of random units in each partition."""
    generator, decisions = torch.Generator().manual_seed(seed), []
    for group in groups:
        size = group.units_per_partition
        count = int(torch.randint(1, size, (1,), generator=generator))
        kept = [torch.randperm(size, generator=generator)[:count] + p * size for p in range(group.num_partitions)]
        decisions.append(GroupPlan(group, torch.cat(kept).sort().values))
    return PruningPlan(tuple(decisions))
