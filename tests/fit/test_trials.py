"""Does a trial cut measure what it says, on samples that nothing was fitted on, and is it heeded?"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snp.fit.preparation import problem_of
from snp.fit.realise import realise
from snp.fit.trials import Trials
from snp.graph.batches import Batch
from snp.graph.units import UnitGroup
from snp.library import prune
from snp.measure.moments import MomentCollector
from snp.plan.plan import GroupPlan, PruningPlan
from snp.plan.planners.snp import choose
from snp.plan.problem import Problem
from snp.settings import PruneSettings
from snp.surgery.subject import Subject, subject_of
from tests import networks

JOINT = PruneSettings(calibration="joint", target_macs=0.5, round_to=1)


def measured(model: nn.Module, batches: list[Tensor], settings: PruneSettings = JOINT) -> tuple[Subject, Problem]:
    subject = subject_of(model, batches[0][:2], settings)
    with torch.no_grad(), MomentCollector(model, subject.readers) as collector:
        for batch in batches:
            model(batch)
    return subject, problem_of(subject, collector.moments)


@pytest.mark.parametrize("sizes", [[60], [30, 30], [25, 25, 10], [50, 10]])
@pytest.mark.parametrize("model", [networks.cnn, networks.attention], ids=lambda make: make.__name__)
def test_trial_is_the_divergence_on_samples_not_fitted_on(model: object, sizes: list[int]) -> None:
    """A quarter is left out of the fit; on it the small network's prediction is as far from the dense one's."""
    assert callable(model)
    dense = model()
    inputs = networks.images(60) if model is networks.cnn else networks.tokens(60)
    subject, problem = measured(dense, list(inputs.split(sizes)))
    trials = Trials(subject, problem, Batch.all(inputs.split(sizes)))
    last = inputs.split(sizes)[-1]
    probes = last[:15] if len(last) >= 15 else torch.cat([last, inputs.split(sizes)[-2][: 15 - len(last)]])
    others = torch.cat([row[None] for row in inputs if not any(torch.equal(row, probe) for probe in probes)])
    _, fitted = measured(dense, [others])
    for group in problem.groups:
        kept = torch.arange(0, group.num_units, 2)
        plan = PruningPlan((GroupPlan(group, kept),), attention=subject.graph.attention)
        small = realise(subject, fitted, plan, JOINT.fit).model
        with torch.no_grad():
            wanted, found = dense(probes).log_softmax(-1), small(probes).log_softmax(-1)
        expected = float(F.kl_div(found, wanted, log_target=True, reduction="sum")) / 15
        assert trials.distance(group, kept) == pytest.approx(expected, rel=1e-3, abs=1e-7)


class Overwriting(nn.Module):
    """Rectifiers that write over sums which are read again: [N, 3, 8, 8] -> {"scores": [N, 10]}."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3)
        self.norm, self.head = nn.BatchNorm2d(16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.one(x), inplace=True)
        x = F.relu(x + self.norm(self.two(x)), inplace=True)
        return {"scores": self.head(F.relu(self.three(x)).mean((2, 3)))}


@pytest.mark.parametrize("make", [networks.cnn, networks.attention, Overwriting], ids=lambda make: make.__name__)
def test_trials_from_held_values_find_what_whole_passes_find(make: Callable[[], nn.Module]) -> None:
    """In every order of the groups, and twice: values in front of a cut are the dense network's."""
    torch.manual_seed(0)
    inputs = networks.tokens(60) if make is networks.attention else networks.images(60)
    subject, problem = measured(make().eval(), list(inputs.split(20)))
    whole, replayed = (Trials(subject, problem, Batch.all(inputs.split(20)), replays=way) for way in (False, True))
    for group in [*problem.groups, *reversed(problem.groups)]:
        kept = torch.arange(0, group.num_units, 2)
        assert replayed.distance(group, kept) == pytest.approx(whole.distance(group, kept), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize(("tilt", "programs"), [(False, 2), (True, 3)])
def test_one_program_serves_trials_and_fit(monkeypatch: pytest.MonkeyPatch, tilt: bool, programs: int) -> None:
    """Exported once to be analysed, once for the batches of both, and once for the smaller ones of all allocations."""
    exported = []

    def noted(model: nn.Module, *rest: object, **named: object) -> object:
        exported.append(type(model).__name__)
        return original(model, *rest, **named)

    original = torch.export.export
    monkeypatch.setattr(torch.export, "export", noted)
    prune(networks.cnn(), list(networks.images(128).split(32)), target_macs=0.5, tilt=tilt, progress=False)
    assert len(exported) == programs


def test_keeping_all_moves_nothing() -> None:
    """No unit cut, no divergence."""
    subject, problem = measured(networks.cnn(), [networks.images(24)])
    trials = Trials(subject, problem, [Batch.of(networks.images(24))])
    for group in problem.groups:
        assert trials.distance(group, torch.arange(group.num_units)) == pytest.approx(0, abs=1e-9)


def test_the_dense_network_is_left_alone() -> None:
    """Trials change no weight."""
    model = networks.cnn()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    subject, problem = measured(model, [networks.images(24)])
    Trials(subject, problem, [Batch.of(networks.images(24))]).distance(problem.groups[0], torch.tensor([0, 1]))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@dataclass(frozen=True)
class Dear:
    """Finds one group dear to cut."""

    name: str

    def distance(self, group: UnitGroup, kept: Tensor) -> float:
        return (1.0 if group.name == self.name else 1e-3) * (1 - len(kept) / group.num_units)


def test_a_group_that_trials_find_dear_keeps_more() -> None:
    """The planner follows what trials log, whatever the prediction."""
    _, problem = measured(networks.cnn(), [networks.images(400)])
    settings = PruneSettings(target_macs=0.5, round_to=1)

    def kept(dear: int) -> list[int]:
        choices = choose(
            replace(problem, trial=Dear(problem.groups[dear].name), target=settings.target), settings
        ).choices
        alive[:] = [int((choice.damage > 0).sum()) for choice in choices if choice.damage is not None]
        return [choice.num_kept for choice in choices]

    alive: list[int] = []  # units that are neither dead nor copies: more than those nobody keeps
    for dear in range(len(problem.groups)):
        others = [kept(other)[dear] for other in range(len(problem.groups)) if other != dear]
        assert kept(dear)[dear] == alive[dear] or kept(dear)[dear] > max(others)
        assert kept(dear)[dear] >= max(others) > min(others)


class Overfitted(nn.Module):
    """A wide last layer that sees one sample per image, behind a cheap one that sees many: [N, 3, 8, 8] -> [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.wide = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 200, 1)
        self.head = nn.Linear(200, 10)
        with torch.no_grad():
            self.head.weight.mul_(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.wide(self.two(self.one(x).relu()).relu()).relu().mean((2, 3)))


@pytest.mark.parametrize("trials", [True, False])
def test_fewer_samples_than_units_are_no_licence_to_cut(trials: bool) -> None:
    """Forty images explain 200 units by forty of them; that says nothing about other images."""
    torch.manual_seed(0)
    model, pictures = Overfitted().eval(), torch.randn(240, 3, 8, 8)
    result = prune(model, list(pictures[:40].split(10)), target_macs=0.7, trials=trials)
    kept = {decision.group.name: len(decision.kept) for decision in result.plan.groups}
    assert kept["wide"] > 60
    with torch.no_grad():
        wanted, found = model(pictures[40:]).log_softmax(-1), result.model(pictures[40:]).log_softmax(-1)
    assert float(F.kl_div(found, wanted, log_target=True, reduction="batchmean")) < 0.2


class HeldTwice(nn.Module):
    """One layer under two names, which both are called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.head = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 3)
        self.same = self.last

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return self.head(torch.tanh(self.last(F.relu(hidden)) + self.same(F.silu(hidden))))


def test_trials_leave_a_module_with_two_names_as_it_was() -> None:
    """Its parameters are the same objects afterwards, and a prune by trials keeps them trained."""
    torch.manual_seed(0)
    model, inputs = HeldTwice().eval(), torch.randn(40, 6)
    subject, problem = measured(model, [inputs])
    before = dict(model.named_parameters(remove_duplicate=False))
    trials = Trials(subject, problem, [Batch.of(inputs)])
    assert all(trials.distance(group, torch.arange(2)) > 0 for group in problem.groups)
    after = dict(model.named_parameters(remove_duplicate=False))
    assert all(after[name] is parameter for name, parameter in before.items())
    small = prune(model, [inputs], target_macs=0.6, round_to=1).model
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in small.parameters())
    assert small.same is small.last
    assert small.last.in_features < 16
