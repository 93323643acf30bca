"""Are whole blocks and single units weighed by one price, and whole allocations judged?"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from snp.core.cuts import Curve
from snp.graph.residual import ResidualBlock, is_inside
from snp.plan.allocation import BlockCurve, Curves
from snp.plan.allotted import allotted
from snp.plan.costs import CostModel
from snp.plan.group_plan import GroupPlan
from snp.plan.latency_table import LatencyTable, LayerTimes
from snp.plan.level import moved
from snp.plan.problem import Choice, Problem, Selection
from snp.plan.removal import tried_blocks, with_blocks_removed
from snp.settings import PruneSettings
from snp.surgery.subject import Subject, subject_of
from tests.residual_networks import Basic, chain, vectors

LEVELS = (1e-6, 0.05, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0)


def random_curves(seed: int) -> Curves:
    """Five groups, of which two lie in one block, one each in two others, and one in none."""
    generator = torch.Generator().manual_seed(seed)

    def falling(num_units: int) -> Tensor:
        drawn = torch.rand(num_units, generator=generator, dtype=torch.float64).sort(descending=True).values
        return torch.cat([drawn, torch.zeros(1, dtype=torch.float64)]) / 10

    curves = tuple(
        Curve(torch.linspace(0.2, 1, 4), falling(4), float(torch.rand((), generator=generator)) / 20) for _ in range(5)
    )
    draws = torch.rand(3, 2, generator=generator, dtype=torch.float64).tolist()
    blocks = tuple(BlockCurve(draws[n][0] / 5, draws[n][1] / 10, ((0, 1), (2,), (3,))[n]) for n in range(3))
    return Curves("output", curves, blocks)


def total(allocation: Curves, gone: Sequence[int], counts: Sequence[int], price: float) -> float:
    """Damage, and the price of what is left, of one choice."""
    inside = {group for number in gone for group in allocation.blocks[number].groups}
    found = sum(allocation.blocks[number].damage for number in gone)
    found += sum(price * block.fixed_cost for n, block in enumerate(allocation.blocks) if n not in gone)
    for number, curve in enumerate(allocation.curves):
        if number not in inside:
            assert curve.damage is not None
            found += float(curve.damage[counts[number]]) + price * curve.unit_cost * counts[number]
    return found


@pytest.mark.parametrize("seed", range(4))
def test_no_other_choice_is_cheaper_at_a_price(seed: int) -> None:
    """Against all choices of blocks and units there are."""
    allocation = random_curves(seed)
    for level in LEVELS:
        price = 1 / level - 1
        counts = [allocation.num_kept(number, level) for number in range(5)]
        found = total(allocation, allocation.removed(level), counts, price)
        sets = [gone for size in range(4) for gone in itertools.combinations(range(3), size)]
        least = min(
            total(allocation, gone, other, price) for gone in sets for other in itertools.product(range(1, 5), repeat=5)
        )
        assert found == pytest.approx(least, rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_a_dearer_price_never_brings_a_block_back(seed: int) -> None:
    allocation = random_curves(seed)
    sets = [set(allocation.removed(level)) for level in LEVELS]
    assert all(after <= before for before, after in itertools.pairwise(sets))


def test_a_worthless_block_goes_first_and_a_dear_one_never() -> None:
    worthless, dear = BlockCurve(0.0, 0.01, (2,)), BlockCurve(1e9, 0.5, (3,))
    allocation = replace(random_curves(0), blocks=(worthless, dear))
    assert [allocation.removed(level) for level in (0.01, 0.5, 0.999)] == [(0,)] * 3
    assert allocation.removed(1.0) == ()  # nothing costs anything there


def test_some_group_is_always_left() -> None:
    allocation = random_curves(0)
    alone = replace(
        allocation, curves=allocation.curves[:4], blocks=tuple(replace(b, damage=0.0) for b in allocation.blocks)
    )
    assert len(alone.removed(0.01)) == 2


class Judge:
    """Takes the words of a table for the distance of the network without blocks."""

    def __init__(self, distances: dict[tuple[str, ...], float], noise: float = 0.0) -> None:
        self.known, self.noise, self.asked = distances, noise, list[tuple[str, ...]]()

    def distances(self, groups: Sequence[GroupPlan], removed: Sequence[ResidualBlock] = ()) -> Tensor:
        names = tuple(block.name for block in removed)
        assert not any(is_inside(decision.group.name, removed) for decision in groups)
        self.asked.append(names)
        noise = self.noise * torch.randn(8, generator=torch.Generator().manual_seed(len(names)), dtype=torch.float64)
        return self.known.get(names, 9.0) + noise


class Trial:
    """Damages that are said, not measured."""

    def __init__(self, damages: Sequence[float]) -> None:
        self.damages = damages

    def distance(self, group: object, kept: Tensor) -> float:
        raise AssertionError("no group is tried here")

    def distance_without(self, block: ResidualBlock) -> float:
        return self.damages[int(block.name.rpartition(".")[2])]


def problem_of(subject: Subject, judge: Judge, damages: Sequence[float], target: float) -> Problem:
    settings = PruneSettings(target_macs=target, round_to=1)
    return Problem(
        subject.groups, {}, {}, {}, subject.costs, target=settings.target, trial=Trial(damages), judge=judge,
        blocks=subject.removable,
    )  # fmt: skip


def selection_of(problem: Problem, damages: Sequence[float]) -> Selection:
    """Every unit does as much damage as the one before it, in all groups."""
    damage = torch.linspace(1, 0, 9, dtype=torch.float64)
    choices = tuple(Choice(torch.arange(8), 8, damage=damage) for _ in problem.groups)
    curves = tuple(Curve(torch.linspace(0.1, 1, 8), damage / 3, 1 / 24) for _ in problem.groups)
    blocks = tuple(BlockCurve(value, 0.0, (number,)) for number, value in enumerate(damages))
    return Selection(choices, 1.0, Curves("output", curves, blocks))


@pytest.fixture(scope="module")
def subject() -> Subject:
    return subject_of(chain(Basic), vectors(Basic, 2), PruneSettings(structures=("ffn", "blocks")))


def test_the_judge_has_the_last_word(subject: Subject) -> None:
    """Two blocks look worthless alone; together they are not."""
    damages = (0.01, 0.012, 2.0)
    known = {(): 1.0, ("blocks.0", "blocks.1"): 3.0, ("blocks.0",): 0.5}
    judge = Judge(known)
    problem = problem_of(subject, judge, damages, 0.57)
    found, selection = with_blocks_removed(problem, selection_of(problem, damages))
    assert [block.name for block in found.removed] == [
        name for name in min(judge.asked, key=lambda n: known.get(n, 9.0))
    ]
    assert len(selection.choices) == len(found.groups) == 3 - len(found.removed)
    assert 0.56 <= found.costs.share_of(found.target)(selection.kept) <= 0.57


def test_what_chance_may_have_made_worse_is_as_good(subject: Subject) -> None:
    """Fewer layers are faster, so of two allocations that cannot be told apart that with fewer blocks is taken."""
    damages = (0.0, 2.0, 2.0)
    for apart, noise, taken in ((0.001, 1.0, 1), (1.0, 0.001, 0)):
        judge = Judge({(): 1.0, ("blocks.0",): 1.0 + apart}, noise)
        problem = problem_of(subject, judge, damages, 0.69)
        found, _ = with_blocks_removed(problem, selection_of(problem, damages))
        assert len(found.removed) == taken


def test_where_no_block_pays_nobody_is_asked(subject: Subject) -> None:
    judge = Judge({})
    problem = problem_of(subject, judge, (9.0, 9.0, 9.0), 0.89)
    found, _ = with_blocks_removed(problem, selection_of(problem, (9.0, 9.0, 9.0)))
    assert found.removed == ()
    assert set(judge.asked) <= {()}


def test_a_budget_that_units_cannot_meet_is_met_by_blocks(subject: Subject) -> None:
    """Units alone leave 17.7 %, and what leaves all blocks in is as bad as can be."""
    damages = (0.5, 0.6, 0.7)
    problem = problem_of(subject, Judge({}), damages, 0.14)
    with pytest.raises(ValueError, match="cannot be reached"):
        moved(replace(problem, blocks=()), selection_of(problem, ()))
    found, selection = with_blocks_removed(problem, selection_of(problem, damages))
    assert found.removed
    assert 0.13 <= found.costs.share_of(found.target)(selection.kept) <= 0.14


def test_blocks_are_tried_one_by_one(subject: Subject) -> None:
    problem = problem_of(subject, Judge({}), (0.3, 0.1, 0.2), 0.5)
    assert tried_blocks(problem) == [0.3, 0.1, 0.2]
    assert tried_blocks(replace(problem, blocks=())) == []


def test_blocks_that_do_nothing_go_until_the_rest_fits_whole(subject: Subject) -> None:
    """All three alone are worth nothing, and without any two of them more is gone than was asked for."""
    damages = (0.0, 1e-6, 1e-7)
    judge = Judge({(): 1.0, ("blocks.0",): 0.1})
    problem = problem_of(subject, judge, damages, 0.57)
    found, selection = with_blocks_removed(problem, selection_of(problem, damages))
    assert [block.name for block in found.removed] == ["blocks.0"]
    assert 0.56 <= found.costs.share_of(found.target)(selection.kept) <= 0.57


class Clock:
    """Refuses what leaves some blocks in, and says of the others how many units a group may keep."""

    def __init__(self, refused: Sequence[tuple[str, ...]] = (), kept: int | None = None) -> None:
        self.refused, self.kept, self.asked = refused, kept, list[tuple[str, ...]]()

    def __call__(self, problem: Problem, selection: Selection) -> tuple[Problem, Selection]:
        names = tuple(block.name for block in problem.removed)
        self.asked.append(names)
        if names in self.refused:
            raise ValueError(f"too slow without {len(names)} blocks")
        return problem, selection if self.kept is None else selection.with_kept([self.kept] * len(selection.choices))


def timed(problem: Problem, subject: Subject) -> Problem:
    """With a budget of time, whose table says that every layer takes as long as it has multiply-accumulates."""
    sizes = problem.costs.sizes(problem.costs.dense, problem.costs.resized_weights)
    times = {
        name: LayerTimes((0, rows), (0, columns), ((0.0, 0.0), (0.0, float(rows * columns))))
        for name, (rows, columns) in sizes.items()
    }
    dense = sum(table.ms[1][1] for table in times.values())
    table = LatencyTable(times, 1.0, 0.0, 0.0, 8, 1, "none", {"dense": dense, "half": dense / 4})
    costs = CostModel(subject.model, subject.graph, problem.groups, table)
    return replace(problem, costs=costs, target=replace(problem.target, kind="latency"))


def test_what_the_clock_refuses_is_done_with_fewer_blocks(subject: Subject) -> None:
    """By the table units alone meet the budget, and nothing but the clock knows that they do not."""
    damages, clock = (0.9, 1.0, 1.1), Clock(refused=[()])
    problem = timed(problem_of(subject, Judge({(): 0.1, ("blocks.0",): 0.5}), damages, 0.6), subject)
    found, selection = with_blocks_removed(problem, selection_of(problem, damages), clock)
    assert clock.asked[0] == ()
    assert found.removed
    assert len(selection.choices) == 3 - len(found.removed)
    names = [f"blocks.{number}" for number in range(3)]
    everything = [gone for size in range(4) for gone in itertools.combinations(names, size)]
    with pytest.raises(ValueError, match=r"too slow without \d blocks"):
        with_blocks_removed(problem, selection_of(problem, damages), Clock(refused=everything))


def test_what_the_clock_makes_of_it_is_judged(subject: Subject) -> None:
    """An allocation that has to be cut to the bone is not what was preferred any more."""

    class Strict(Judge):
        def distances(self, groups: Sequence[GroupPlan], removed: Sequence[ResidualBlock] = ()) -> Tensor:
            found = super().distances(groups, removed)
            return found + 5 * (not removed and max(len(decision.kept) for decision in groups) == 1)

    class OfUnits(Clock):
        def __call__(self, problem: Problem, selection: Selection) -> tuple[Problem, Selection]:
            _, found = super().__call__(problem, selection)
            return problem, found.with_kept([1] * len(found.choices)) if not problem.removed else selection

    damages, clock = (0.01, 3.0, 3.0), OfUnits()
    problem = timed(problem_of(subject, Strict({(): 0.1, ("blocks.0",): 0.5}), damages, 0.6), subject)
    found, _ = with_blocks_removed(problem, selection_of(problem, damages), clock)
    assert [block.name for block in found.removed] == ["blocks.0"]
    assert clock.asked == [(), ("blocks.0",)]


def test_on_a_budget_of_time_no_block_goes_by_chance(subject: Subject) -> None:
    """All that meets it is as fast as was asked for: there fewer layers are no reason of their own."""
    damages = (0.0, 2.0, 2.0)
    judge = Judge({(): 1.0, ("blocks.0",): 1.0 + 0.001}, 1.0)
    problem = timed(problem_of(subject, judge, damages, 0.69), subject)
    found, _ = with_blocks_removed(problem, selection_of(problem, damages), Clock())
    assert len(found.removed) == (0 if judge_mean(judge, ()) < judge_mean(judge, ("blocks.0",)) else 1)


def judge_mean(judge: Judge, names: tuple[str, ...]) -> float:
    """The mean that a judge with noise has said."""
    noise = judge.noise * torch.randn(8, generator=torch.Generator().manual_seed(len(names)), dtype=torch.float64)
    return judge.known[names] + float(noise.mean())


def test_where_all_blocks_do_nothing_one_of_them_stays(subject: Subject) -> None:
    """On a budget of time, too, there has to be something left to cut."""
    damages = (0.0, 0.0, 0.0)
    judge = Judge({pair: 0.1 for pair in itertools.combinations((f"blocks.{number}" for number in range(3)), 2)})
    problem = timed(problem_of(subject, judge, damages, 0.5), subject)
    found, selection = with_blocks_removed(problem, selection_of(problem, damages), Clock())
    assert len(found.removed) == 2
    assert found.costs.share_of(found.target)(selection.kept) <= 0.5


def test_what_the_clock_has_seen_is_taken_where_it_refuses_the_tilted_one(subject: Subject) -> None:
    """Nothing is timed twice, and what meets the budget is not lost for something better that does not."""

    class OfDepth(Judge):
        """Holds later groups for the more important ones, the more the better."""

        favour = 0.0

        def distances(self, groups: Sequence[GroupPlan], removed: Sequence[ResidualBlock] = ()) -> Tensor:
            kept = [len(decision.kept) for decision in groups]
            return super().distances(groups, removed) + (kept[0] - kept[-1]) * self.favour + 1

    class Once(Clock):
        def __call__(self, problem: Problem, selection: Selection) -> tuple[Problem, Selection]:
            if self.asked:
                raise ValueError("too slow today")
            return super().__call__(problem, selection)

    damages = (2.0, 2.0, 2.0)
    for favour in (0.0, 0.1):
        judge, clock = OfDepth({(): 0.1}), Once()
        judge.favour = favour
        problem = timed(problem_of(subject, judge, damages, 0.6), subject)
        plain = allotted(problem, selection_of(problem, damages), tilts=False, clock=Once())
        found = allotted(problem, selection_of(problem, damages), tilts=True, clock=clock)
        assert found.selection.kept == plain.selection.kept
        assert (found.tilt, clock.asked) == (0.0, [()])
        free = allotted(problem, selection_of(problem, damages), tilts=True, clock=Clock())
        assert (free.tilt != 0) == (free.selection.kept != plain.selection.kept) == (favour > 0)


def test_what_does_not_go_with_blocks_is_no_remedy() -> None:
    for structures, names in ((("ffn",), True), (("ffn", "blocks"), False), (("ffn", "width"), False)):
        remedies = PruneSettings(structures=structures, target_macs=0.5).target.remedies
        assert any("prune.streams=true" in remedy for remedy in remedies) == names
