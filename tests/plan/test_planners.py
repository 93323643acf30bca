"""Does every planner keep its contract, and do both choose what their formulas say?"""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from snp.core import cuts, orderings
from snp.core.rounding import Rounding
from snp.core.subspace import factorize
from snp.fit.preparation import problem_of
from snp.measure.moments import MomentCollector
from snp.plan import planners
from snp.plan.planners.vbp import unit_variance
from snp.plan.problem import Problem, Selection
from snp.plan.statistics import group_statistics
from snp.settings import PruneSettings
from snp.surgery.subject import subject_of
from tests import networks

SEED = 0


def problem_for(model: nn.Module, batch: Tensor, settings: PruneSettings | None = None) -> Problem:
    subject = subject_of(model, batch[:2], settings or PruneSettings(streams=True))
    with torch.no_grad(), MomentCollector(subject.model, subject.readers) as collector:
        model(batch)
    return problem_of(subject, collector.moments)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return problem_for(
        networks.cnn(), networks.images(400)
    )  # more samples than columns: nothing is explained by chance


def chosen(problem: Problem, settings: PruneSettings) -> Selection:
    return planners.chosen(replace(problem, target=settings.target), settings)


def counts(selection: Selection) -> list[int]:
    return [choice.num_kept for choice in selection.choices]


COMBINATIONS = [
    *(
        (planner, ordering, cut)
        for planner in planners.names()
        for ordering in orderings.names()
        for cut in cuts.names()
    )
]


@pytest.mark.parametrize(("planner", "ordering", "cut"), COMBINATIONS)
def test_choice_is_a_permutation_within_the_budget(problem: Problem, planner: str, ordering: str, cut: str) -> None:
    """Every group gets an order of all its units and 1 to U of them; the cost fits; the same call repeats."""
    settings = PruneSettings(planner=planner, ordering=ordering, cut=cut, target_macs=0.5)
    selection = chosen(problem, settings)
    assert len(selection.choices) == len(problem.groups)
    for group, choice in zip(problem.groups, selection.choices, strict=True):
        assert sorted(choice.order.tolist()) == list(range(group.num_units))
        assert 1 <= choice.num_kept <= group.num_units
    assert problem.costs.macs(counts(selection)) <= 0.5 * problem.costs.macs(problem.costs.dense)
    again = chosen(problem, settings)
    assert counts(again) == counts(selection)
    pairs = zip(again.choices, selection.choices, strict=True)
    assert all(torch.equal(one.order, other.order) for one, other in pairs)


@pytest.mark.parametrize("target", ["target_macs", "target_params"])
@pytest.mark.parametrize("planner", planners.names())
def test_larger_budget_keeps_no_fewer_units(problem: Problem, planner: str, target: str) -> None:
    """All groups grow together with the budget, and a budget of 1 keeps all that is ever active."""
    found = []
    for value in (0.2, 0.4, 0.6, 0.8, 1.0):
        selection = chosen(problem, PruneSettings(planner=planner, **{target: value}))
        cost = getattr(problem.costs, target.removeprefix("target_"))
        assert cost(counts(selection)) <= value * cost(problem.costs.dense)
        found.append(counts(selection))
    for smaller, larger in pairwise(found):
        assert all(a <= b for a, b in zip(smaller, larger, strict=True))
    for choice, group in zip(selection.choices, problem.groups, strict=True):
        share = None if choice.kept_variance is None else float(choice.kept_variance[choice.num_kept - 1])
        assert choice.num_kept == group.num_units or share == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("planner", planners.names())
def test_unreachable_budget_says_what_can_be_reached(problem: Problem, planner: str) -> None:
    """The message has the target asked for and the share that is left at the smallest."""
    one_each = problem.costs.macs([1] * len(problem.groups)) / problem.costs.macs(problem.costs.dense)
    with pytest.raises(ValueError, match=f"{math.ceil(1e3 * one_each) / 1e3:.3f}") as caught:
        chosen(problem, PruneSettings(planner=planner, target_macs=one_each / 2))
    assert "prune.target_macs=" in str(caught.value)


def test_variance_target_is_met_by_the_smallest_number_in_every_group(problem: Problem) -> None:
    """One unit fewer would hold less than asked for."""
    selection = chosen(problem, PruneSettings(target_var=0.9))
    for choice in selection.choices:
        share = choice.kept_variance
        assert share is not None
        assert float(share[choice.num_kept - 1]) >= 0.9 - 1e-9
        assert choice.num_kept == 1 or float(share[choice.num_kept - 2]) < 0.9
    assert selection.level == 0.9


def test_target_units_keeps_that_share_of_every_group(problem: Problem) -> None:
    """Half of the units of every group."""
    selection = chosen(problem, PruneSettings(target_units=0.5, cut="uniform"))
    assert counts(selection) == [group.num_units // 2 for group in problem.groups]


def test_seed_moves_random_orders_and_no_others(problem: Problem) -> None:
    """Another seed is another random plan; what looks at the data does not care."""

    def orders(ordering: str, seed: int) -> list[list[int]]:
        selection = chosen(problem, PruneSettings(ordering=ordering, seed=seed, cut="uniform"))
        return [choice.order.tolist() for choice in selection.choices]

    assert orders("random", 0) != orders("random", 1)
    for ordering in sorted(set(orderings.names()) - {"random"}):
        assert orders(ordering, 0) == orders(ordering, 1)


def test_magnitude_orders_by_the_norm_of_all_rows(problem: Problem) -> None:
    """A unit of several producers counts all of their rows; embeddings count columns."""
    for group, choice in zip(problem.groups, chosen(problem, PruneSettings(planner="magnitude")).choices, strict=True):
        energy = torch.zeros(group.num_units).double()
        for member in group.producers:
            weight = problem.weights[member.tensor].double()
            for unit in range(group.num_units):
                energy[unit] += weight.index_select(member.dim, member.index[unit]).square().sum()
        assert choice.order.tolist() == energy.argsort(descending=True).tolist()


def test_vbp_keeps_what_varies_most_in_the_whole_network() -> None:
    """The units that stay are those above one threshold of the variance of their activations, and one in any group."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4)).eval()
    rows = torch.randn(300, 6)
    problem = problem_for(model, rows)
    activations = {"0": model[:2](rows), "2": model[:4](rows)}
    wanted = {name: values.detach().double().var(dim=0, correction=0) for name, values in activations.items()}
    selection = chosen(problem, PruneSettings(planner="vbp", target_units=0.5, cut="uniform"))
    threshold = torch.cat(list(wanted.values())).sort(descending=True).values[10]  # half of 21 units, to the nearest
    for group, choice in zip(problem.groups, selection.choices, strict=True):
        variance = wanted[group.name]
        torch.testing.assert_close(unit_variance(problem, group), variance, rtol=1e-6, atol=1e-9)
        kept = set(choice.order[: choice.num_kept].tolist())
        assert kept == (set((variance >= threshold).nonzero().flatten().tolist()) or {int(variance.argmax())})


def test_osscar_keeps_no_worse_a_set_than_greedy_elimination() -> None:
    """After a refit of each layer on the set found, its outputs are at least as close as after greedy elimination."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 3)).eval()
    rows = torch.randn(400, 20)
    problem = problem_for(model, rows)
    activations = {"2.weight": model[:2](rows), "4.weight": model[:4](rows)}
    settings = PruneSettings(target_units=0.4, cut="uniform", planner="osscar")
    found = chosen(problem, settings)
    greedy = chosen(problem, replace(settings, planner="snp", ordering="output"))
    for group, one, other in zip(problem.groups, found.choices, greedy.choices, strict=True):
        name = group.consumers[0].tensor
        inputs, weight = activations[name].detach().double(), problem.weights[name].double()

        def error(kept: Tensor, inputs: Tensor = inputs, weight: Tensor = weight) -> float:
            outputs = inputs @ weight.T
            fit = torch.linalg.lstsq(inputs[:, kept], outputs).solution
            return float((outputs - inputs[:, kept] @ fit).square().sum())

        assert one.num_kept == other.num_kept
        mine, theirs = (error(choice.order[: choice.num_kept]) for choice in (one, other))
        assert mine <= theirs * (1 + 1e-6)


class TwoReaders(nn.Module):
    """Units read as they are and after a scale per unit: [N, 6] -> [N, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.two = nn.Linear(6, 10), nn.Linear(10, 4), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        units = self.first(x)
        return self.one(units) + self.two((1000 * units).tanh())


def test_readers_count_alike_whatever_their_scale() -> None:
    """The statistics are the Gram matrix of all readers' inputs side by side, each scaled to the same energy."""
    torch.manual_seed(0)
    model, rows = TwoReaders().eval(), torch.randn(50, 6)
    problem = problem_for(model, rows)
    found = group_statistics(problem, problem.groups[0], torch.Generator())
    units = model.first(rows).detach().double()
    parts = [units, (1000 * units.float()).tanh().double()]
    wanted = torch.cat([part / part.norm() for part in parts])
    torch.testing.assert_close(found.gram, wanted.T @ wanted, rtol=1e-5, atol=1e-6)
    assert found.columns_per_unit == 1
    outgoing = torch.cat([model.one.weight, model.two.weight]).detach().double().abs().sum(0)
    torch.testing.assert_close(found.outgoing.abs().sum(dim=0), outgoing)


class MixedWidths(nn.Module):
    """Channels read by a convolution and, flattened, by a linear layer: [N, 3, 4, 4] -> [N, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 2, 1), nn.Linear(80, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(x.flatten(1)) + self.second(x).mean((2, 3))


def test_readers_of_different_width_are_brought_to_one_column_per_unit() -> None:
    """Positions of the wide reader count as samples: here both give the same matrix."""
    torch.manual_seed(0)
    model, images = MixedWidths().eval(), torch.randn(30, 3, 4, 4)
    problem = problem_for(model, images)
    found = group_statistics(problem, problem.groups[0], torch.Generator())
    rows = model.first(images).detach().double().movedim(1, -1).reshape(-1, 5)
    wanted = 2 * rows.T @ rows / rows.square().sum()
    torch.testing.assert_close(found.gram, wanted, rtol=1e-5, atol=1e-7)
    assert found.columns_per_unit == 1
    by_unit = model.second.weight.detach().abs().sum((0, 2, 3)) + model.head.weight.detach().abs().sum(0).reshape(
        5, 16
    ).sum(1)
    torch.testing.assert_close(found.outgoing.abs().sum(dim=0), by_unit.double())


@pytest.mark.parametrize(
    ("num_kept", "num_units", "round_to", "wanted"),
    [
        (33, 128, 8, 40),
        (32, 128, 8, 32),
        (33, 127, 8, 33),
        (1, 128, 8, 8),
        (127, 130, 8, 128),
        (129, 130, 8, 130),
        (5, 16, 1, 5),
    ],
)
def test_rounding(num_kept: int, num_units: int, round_to: int, wanted: int) -> None:
    """Up to a multiple in wide groups, never beyond the group; narrow groups are left alone."""
    assert Rounding(round_to).up(num_kept, num_units) == wanted


@pytest.mark.parametrize(
    ("num_kept", "num_units", "round_from", "wanted"),
    [(13, 16, 16, 16), (7, 16, 16, 8), (7, 15, 16, 7), (7, 15, 1, 7), (65, 96, 96, 72), (65, 96, 97, 65)],
)
def test_rounding_of_groups_named_wide(num_kept: int, num_units: int, round_from: int, wanted: int) -> None:
    """With round_from groups of so many units are rounded, if two multiples fit."""
    assert Rounding(8, round_from).up(num_kept, num_units) == wanted


@pytest.mark.parametrize(
    ("num_kept", "num_units", "round_to", "num_partitions", "wanted"),
    [
        (1, 12, 8, 3, 3),
        (4, 12, 8, 3, 6),
        (12, 12, 8, 3, 12),
        (33, 128, 8, 32, 64),
        (25, 384, 8, 6, 48),
        (25, 378, 8, 6, 30),
        (5, 24, 1, 4, 8),
    ],
)
def test_rounding_keeps_partitions_even(
    num_kept: int, num_units: int, round_to: int, num_partitions: int, wanted: int
) -> None:
    """Always a multiple of the partitions, at least one unit of each; of both multiples in wide groups."""
    assert Rounding(round_to).up(num_kept, num_units, num_partitions) == wanted


@pytest.fixture(scope="module")
def partitioned(problem: Problem) -> Problem:
    """The same groups, each told to keep equal numbers of units in its partitions."""
    partitions = {12: 3, 24: 4, 6: 2, 16: 8}
    groups = tuple(replace(group, num_partitions=partitions[group.num_units]) for group in problem.groups)
    assert len(groups) == 4
    return replace(problem, groups=groups)


@pytest.mark.parametrize(("planner", "ordering", "cut"), COMBINATIONS)
def test_partitions_keep_equal_numbers(partitioned: Problem, planner: str, ordering: str, cut: str) -> None:
    """Whatever chooses, and however much goes: each partition keeps as many of its units, at least one, in budget."""
    for target in (0.25, 0.5, 0.8):
        settings = PruneSettings(planner=planner, ordering=ordering, cut=cut, target_macs=target)
        selection = chosen(partitioned, settings)
        costs = partitioned.costs
        assert costs.macs(counts(selection)) <= target * costs.macs(costs.dense)
        for group, choice in zip(partitioned.groups, selection.choices, strict=True):
            assert sorted(choice.order.tolist()) == list(range(group.num_units))
            assert choice.num_kept % group.num_partitions == 0
            for step in range(group.num_partitions, group.num_units + 1, group.num_partitions):
                owners = [unit // group.units_per_partition for unit in choice.order[:step].tolist()]
                assert {owners.count(partition) for partition in range(group.num_partitions)} == {
                    step // group.num_partitions
                }


@pytest.mark.parametrize("ordering", orderings.names())
def test_partitions_keep_the_order_inside(problem: Problem, partitioned: Problem, ordering: str) -> None:
    """Partitions decide how many stay, the ordering still decides which."""
    settings = PruneSettings(ordering=ordering, cut="uniform")
    plain, even = chosen(problem, settings), chosen(partitioned, settings)
    for group, one, other in zip(partitioned.groups, plain.choices, even.choices, strict=True):
        for partition in range(group.num_partitions):
            inside = [u for u in one.order.tolist() if u // group.units_per_partition == partition]
            assert inside == [u for u in other.order.tolist() if u // group.units_per_partition == partition]


def test_variance_of_partitions_is_that_of_the_order_that_is_cut(partitioned: Problem) -> None:
    """The share in the plan is that of the units that stay, by plain least squares."""
    selection = chosen(partitioned, PruneSettings(target_var=0.7))
    for group, choice in zip(partitioned.groups, selection.choices, strict=True):
        statistics = group_statistics(partitioned, group, torch.Generator())
        assert choice.kept_variance is not None
        wanted = factorize(statistics.gram, choice.order, statistics.columns_per_unit).kept_variance()
        torch.testing.assert_close(choice.kept_variance, wanted)
        assert float(choice.kept_variance[choice.num_kept - 1]) >= 0.7 - 1e-9


def test_rounded_counts_fit_the_budget() -> None:
    """Rounding up is part of the budget, not an addition to it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 200), nn.ReLU(), nn.Linear(200, 150), nn.ReLU(), nn.Linear(150, 4)).eval()
    problem = problem_for(model, torch.randn(400, 6))
    for target in (0.1, 0.3, 0.5, 0.7):
        selection = chosen(problem, PruneSettings(target_macs=target, cut="uniform"))
        assert problem.costs.macs(counts(selection)) <= target * problem.costs.macs(problem.costs.dense)
        assert all(count % 8 == 0 or count in (150, 200) for count in counts(selection))


def test_dead_readers_leave_a_plan() -> None:
    """A group that is never active is cut to one unit by variance, and nothing is divided by zero."""
    model = networks.cnn()
    with torch.no_grad():
        model.wide.weight.zero_()
        model.wide.bias.fill_(-1)
    problem = problem_for(model, networks.images())
    kept = dict(
        zip(
            [group.name for group in problem.groups],
            counts(chosen(problem, PruneSettings(target_var=0.9))),
            strict=True,
        )
    )
    assert kept["wide"] == 1


def test_names_are_the_files_of_the_folder() -> None:
    """Private files are no planners; a wrong name lists the right ones."""
    assert {"magnitude", "osscar", "snp", "vbp"} <= set(planners.names())
    assert not [name for name in planners.names() if name.startswith("_")]
    with pytest.raises(ValueError, match=r"magnitude, osscar, snp, vbp.*found 'best'"):
        planners.load("best")


def test_settings_are_replaced_not_shared(problem: Problem) -> None:
    """A planner neither keeps nor changes its settings."""
    settings = PruneSettings(target_var=0.9)
    chosen(problem, settings)
    assert settings == replace(settings)
