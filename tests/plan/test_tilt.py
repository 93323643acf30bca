"""Is the tilt found where judged distances are least, in few steps, and is chance no reason for one?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from snp.graph.residual import ResidualBlock
from snp.plan.budgets import use_up
from snp.plan.group_plan import GroupPlan
from snp.plan.planners.snp import choose
from snp.plan.problem import Problem, Selection
from snp.plan.tilt import at_tilt, best_tilt
from snp.settings import PruneSettings
from tests.fit.test_trials import measured

SETTINGS = PruneSettings(target_macs=0.5, round_to=1)


@dataclass
class Wanting:
    """Judges a plan by how far its numbers of units are from wanted ones."""

    wanted: list[int]
    num_asked: int = 0

    def distances(self, groups: Sequence[GroupPlan], removed: Sequence[ResidualBlock] = ()) -> Tensor:
        self.num_asked += 1
        return torch.full((8,), self.apart([len(group.kept) for group in groups]), dtype=torch.float64)

    def apart(self, kept: list[int]) -> float:
        return float(sum((one - other) ** 2 for one, other in zip(kept, self.wanted, strict=True)))


@dataclass
class Guessing:
    """Judges by nothing but chance."""

    generator: torch.Generator

    def distances(self, groups: Sequence[GroupPlan], removed: Sequence[ResidualBlock] = ()) -> Tensor:
        return torch.randn(8, generator=self.generator, dtype=torch.float64)


def start() -> tuple[Problem, Selection]:
    """A network whose readers all matter alike, and its choice without a tilt."""
    torch.manual_seed(0)
    widths = (48, 48, 48, 48, 48, 48)
    layers = [part for pair in pairwise(widths) for part in (nn.Linear(*pair), nn.ReLU())]
    inputs = torch.randn(512, 48, generator=torch.Generator().manual_seed(0))
    subject, problem = measured(nn.Sequential(*layers, nn.Linear(48, 48)).eval(), [inputs])
    fisher = {name: torch.eye(len(subject.model.get_parameter(name)), dtype=torch.float64) for name in subject.readers}
    problem = replace(problem, target=SETTINGS.target)
    apart = choose(replace(problem, sensitivity=fisher), SETTINGS)
    for group, choice in zip(problem.groups, apart.choices, strict=True):
        assert choice.damage is not None
        fisher |= {member.tensor: fisher[member.tensor] / choice.damage[0] for member in group.consumers}
    problem = replace(problem, sensitivity=fisher)

    return problem, use_up(problem, choose(problem, SETTINGS))


def test_tilts_move_units_from_one_end_to_the_other() -> None:
    """None changes nothing; a positive one takes from the first layers; orders stay; every budget is met."""
    problem, selection = start()
    assert at_tilt(problem, selection, 0.0).kept == selection.kept
    cost, dense = problem.costs.macs, problem.costs.macs(problem.costs.dense)
    differences = []
    for tilt in (-1.5, -0.5, 0.0, 0.5, 1.5):
        found = at_tilt(problem, selection, tilt)
        differences.append(found.kept[-1] - found.kept[0])
        assert 0.49 * dense <= cost(found.kept) <= 0.5 * dense
        assert all(torch.equal(a.order, b.order) for a, b in zip(found.choices, selection.choices, strict=True))
    assert differences == sorted(differences)
    assert differences[0] < differences[2] < differences[-1]


@pytest.mark.parametrize("wanted", [-0.8, -0.4, 0.4, 0.8, 1.2])
def test_the_best_tilt_is_found_in_five_plans(wanted: float) -> None:
    """Whichever way it lies, at most five whole allocations are judged; damages stay those that were measured."""
    problem, selection = start()
    judge = Wanting(at_tilt(problem, selection, wanted).kept)
    tilt, found = best_tilt(replace(problem, judge=judge), selection)
    assert judge.apart(found.kept) < 0.2 * judge.apart(selection.kept)
    assert abs(tilt - wanted) < 0.35
    assert judge.num_asked <= 5
    for before, after in zip(selection.choices, found.choices, strict=True):
        assert torch.equal(before.damage, after.damage)  # type: ignore[arg-type]


def test_chance_is_no_reason() -> None:
    """Where all plans are alike but for noise, the first one stays twice as often as it would be the best."""
    problem, selection = start()
    found = []
    for seed in range(20):
        judge = Guessing(torch.Generator().manual_seed(seed))
        found.append(best_tilt(replace(problem, judge=judge), selection)[0])
    assert found.count(0.0) >= 8  # of five guesses the least is the first one four times in twenty


def test_a_tilt_that_no_budget_fits_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single units may be too large for the budget at some tilt."""
    problem, selection = start()

    def refusing(*arguments: object) -> Selection:
        raise ValueError("cannot be met")

    monkeypatch.setattr("snp.plan.tilt.met_again", refusing)
    tilt, found = best_tilt(replace(problem, judge=Wanting([1] * 5)), selection)
    assert tilt == 0
    assert found.kept == selection.kept


def test_none_is_tried_where_nothing_moves() -> None:
    """One allocation is judged; it is near enough."""
    problem, selection = start()
    judge = Wanting(selection.kept)
    assert best_tilt(replace(problem, judge=judge), selection) == (0.0, selection)
    assert judge.num_asked == 1
