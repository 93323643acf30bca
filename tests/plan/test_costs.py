"""Are costs, counted from shapes, those of the network that is really cut?"""

from typing import Any

import pytest
import torch
from torch import nn

from snp.core.budget import Target
from snp.graph import CouplingGraph, analyse
from snp.plan.costs import CostModel
from snp.plan.plan import GroupPlan, PruningPlan
from snp.speed.network import macs
from snp.surgery.surgery import cut
from tests import networks

CASES = {
    "cnn": (networks.cnn, networks.images),
    "attention": (networks.attention, networks.tokens),
    "language": (networks.language, networks.words),
}

PARAMS = Target("params", 0.5)
ALL_PARAMS = Target("params", 0.5, counts_embeddings=True)


def prepared(name: str) -> tuple[nn.Module, Any, CouplingGraph, CostModel]:
    build, batches = CASES[name]
    model, batch = build(), batches(2)
    graph = analyse(model, batch)
    return model, batch, graph, CostModel(model, graph, graph.groups)


@pytest.mark.parametrize("name", CASES)
def test_dense_costs_are_measured_costs(name: str) -> None:
    """With all units kept the counts are those of the profiler and of the parameters."""
    model, batch, _, costs = prepared(name)
    assert costs.macs(costs.dense) == macs(model, batch[:1])
    assert costs.params(costs.dense) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", CASES)
def test_costs_of_any_cut_are_those_of_the_cut_network(name: str, seed: int) -> None:
    """Random numbers of random units, streams included: the count equals the small network's."""
    model, batch, graph, costs = prepared(name)
    generator = torch.Generator().manual_seed(seed)
    decisions = []
    for group in graph.groups:
        count = int(torch.randint(1, group.num_units + 1, (1,), generator=generator))
        decisions.append(GroupPlan(group, torch.randperm(group.num_units, generator=generator)[:count].sort().values))
    small = cut(model, PruningPlan(tuple(decisions)))
    kept = [len(decision.kept) for decision in decisions]
    assert costs.macs(kept) == macs(small, batch[:1])
    assert costs.params(kept) == sum(parameter.numel() for parameter in small.parameters())


@pytest.mark.parametrize("name", CASES)
def test_every_unit_costs_something(name: str) -> None:
    """One unit less in any group is cheaper on both counts."""
    _, _, _, costs = prepared(name)
    for number, size in enumerate(costs.dense):
        fewer = [*costs.dense[:number], size - 1, *costs.dense[number + 1 :]]
        assert costs.macs(fewer) < costs.macs(costs.dense)
        assert costs.params(fewer) < costs.params(costs.dense)


def test_costs_are_per_sample() -> None:
    """The size of the example batch does not count."""
    model = networks.attention()
    found = []
    for count in (1, 2, 5):
        graph = analyse(model, networks.tokens(count))
        costs = CostModel(model, graph, graph.groups)
        found.append(costs.macs(costs.dense))
    assert found == [macs(model, networks.tokens(1))] * 3


def test_by_hand() -> None:
    """Conv 3 -> 4 of 3 x 3 on 6 x 6 outputs, then linear 144 -> 5; keeping two channels halves all but a bias."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    graph = analyse(model, torch.randn(2, 3, 8, 8))
    costs = CostModel(model, graph, graph.groups)
    assert costs.dense == [4]
    assert costs.macs([4]) == 36 * 4 * 27 + 144 * 5
    assert costs.macs([2]) == 36 * 2 * 27 + 72 * 5
    assert costs.params([2]) == 2 * 27 + 2 + 72 * 5 + 5


def test_embeddings_and_tied_heads_are_left_out_where_asked() -> None:
    """A budget of parameters counts the layers of a language model, and its tables only on request."""
    model, _, _, costs = prepared("language")
    tables = model.embed.weight.numel() + model.place.weight.numel()
    for kept in (costs.dense, [5]):
        whole = costs.of_target(ALL_PARAMS)(kept)
        assert whole == costs.params(kept)
        assert whole - costs.of_target(PARAMS)(kept) == tables
    # Two columns per table cannot be cut by a budget, so all of the budget falls on the hidden units.
    norm, unit = 2 * 12, 12 + 1 + 12
    assert costs.of_target(PARAMS)([5]) == norm + 5 * unit + 12


def test_a_network_without_tables_has_one_count_of_parameters() -> None:
    """For images the two ways to count are the same."""
    _, _, _, costs = prepared("cnn")
    assert costs.of_target(PARAMS)(costs.dense) == costs.params(costs.dense)
