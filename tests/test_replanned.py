"""What a network's own code does not bear is found by trying, and left alone with the reason."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snp
from snp.fit.preparation import problem_of
from snp.graph import analyse
from snp.graph.batches import Batch
from snp.graph.units import UnitGroup
from snp.measure.moments import MomentCollector
from snp.plan import planners
from snp.pruning import PruneResult, decide
from snp.settings import PruneSettings
from snp.surgery.subject import subject_of
from snp.surgery.trial_cuts import confirm
from tests.graph.test_graph import Net, conv

IMAGES = [torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


def pixels(m: Net, x: Tensor) -> Tensor:
    """Channels of the shuffle must be a multiple of four."""
    x = F.pixel_unshuffle(F.pixel_shuffle(m.wide(F.relu(m.stem(x))), 2).relu(), 2)
    return m.head(F.relu(m.last(x)).mean((2, 3)))


def shuffling() -> Net:
    torch.manual_seed(0)
    layers = {"stem": conv(3, 8), "wide": conv(8, 16), "last": conv(16, 8, 1), "head": nn.Linear(8, 5)}
    return Net(pixels, **layers).eval()


def cut_of(model: nn.Module, **options: Any) -> PruneResult:
    result = snp.prune(model, IMAGES, round_to=1, **options)
    assert result.check < 1e-9
    with torch.no_grad():
        assert torch.isfinite(result.model.eval()(IMAGES[0])).all()
    return result


def test_a_number_that_the_code_does_not_bear_freezes_its_group_and_the_plan_is_made_again() -> None:
    """11 of 16 channels do not run, though the trial's numbers might have; the others are cut without them."""
    result = cut_of(shuffling(), target_units=0.7, calibration="joint")
    (first,) = result.plan.frozen.keys() - {"head.weight"}
    assert first == "wide"
    assert "does not run" in result.plan.frozen["wide"]
    assert {decision.group.name for decision in result.plan.groups} == {"stem", "last"}
    assert len(result.selection.choices) == 2


class Particular(nn.Module):
    """Only some numbers of channels run: the trials' do, the plan's does not."""

    def __init__(self, refuses: Callable[[int], bool]) -> None:
        super().__init__()
        self.refuses = refuses

    def forward(self, x: Tensor) -> Tensor:
        if self.refuses(x.shape[1]):
            raise RuntimeError(f"{x.shape[1]} channels do not fit")
        return x


@pytest.mark.parametrize("planner", planners.names())
def test_every_planner_plans_again(planner: str) -> None:
    """The trials keep 6 and 10 of 16 channels; a plan of other numbers is made again, whoever made it."""
    torch.manual_seed(0)
    layers = [conv(3, 16), nn.ReLU(), Particular(lambda n: n not in (6, 10, 16)), conv(16, 12), nn.ReLU(), conv(12, 4)]
    result = cut_of(nn.Sequential(*layers).eval(), target_units=0.5, planner=planner)
    assert [decision.group.name for decision in result.plan.groups] == ["3"]
    assert "channels do not fit" in result.plan.frozen["0"]


def test_nothing_left_is_said_with_the_reasons() -> None:
    """No self-check error for an ordinary network."""
    model = nn.Sequential(conv(3, 16), nn.ReLU(), Particular(lambda n: n == 8), conv(16, 4)).eval()
    with pytest.raises(ValueError, match=r"nothing in Sequential can be cut: 0: .*8 channels do not fit"):
        cut_of(model, target_units=0.5)


def test_a_budget_out_of_reach_after_the_first_plan_names_the_group() -> None:
    """Why it is out of reach is not the user's doing."""
    layers = [conv(3, 16), nn.ReLU(), Particular(lambda n: n not in (16, 6, 10)), conv(16, 8), nn.ReLU(), conv(8, 4)]
    with pytest.raises(ValueError, match=r"cannot be reached.*Left alone after a first plan: 0: .*do not fit"):
        cut_of(nn.Sequential(*layers).eval(), target_macs=0.2, calibration="joint", trials=False)


def auxiliary(m: Net, x: Tensor) -> Any:
    """A head that reads the middle of the network while it is trained, as in GoogLeNet."""
    middle = F.relu(m.norm(m.stem(x)))
    out = m.head(F.relu(m.last(middle)).mean((2, 3)))
    return (out, m.aux(middle).mean((2, 3))) if m.training else out


def fixed_noise(m: Net, x: Tensor) -> Tensor:
    """A stochastic path whose width is written down."""
    middle = F.relu(m.norm(m.stem(x)))
    if m.training:
        middle = middle * torch.bernoulli(torch.full((len(x), 12, 1, 1), 0.9))
    return m.head(F.relu(m.last(middle)).mean((2, 3)))


def rolled(m: Net, x: Tensor) -> Tensor:
    """Channels change places while the network is trained: nothing fails, and all is wrong."""
    middle = F.relu(m.norm(m.stem(x)))
    return m.head(F.relu(m.last(middle.flip(1) if m.training else middle)).mean((2, 3)))


@pytest.mark.parametrize("forward", [auxiliary, fixed_noise, rolled])
def test_what_only_training_runs_is_left_alone(forward: Callable[[Net, Tensor], Any]) -> None:
    """The other group is cut, the result trains, and the dense network's statistics stay as they were."""
    torch.manual_seed(0)
    layers = {"stem": conv(3, 12), "norm": nn.BatchNorm2d(12), "last": conv(12, 8), "head": nn.Linear(8, 5)}
    model = Net(forward, **layers, aux=conv(12, 5, 1)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = snp.prune(model, IMAGES, target_units=0.5, calibration="joint", ordering="zca")
    assert [decision.group.name for decision in result.plan.groups] == ["last"]
    assert "training mode" in result.plan.frozen["stem"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    out = result.model.train()(IMAGES[0])
    (out[0] if isinstance(out, tuple) else out).sum().backward()


def test_networks_that_want_labels_in_training_are_cut_all_the_same() -> None:
    """What the dense network does not do, nobody asks of the small one."""

    def forward(m: Net, x: Tensor, targets: Any = None) -> Tensor:
        if m.training and targets is None:
            raise ValueError("targets should not be none when in training mode")
        return m.head(F.relu(m.stem(x)).mean((2, 3)))

    model = Net(forward, stem=conv(3, 12), head=nn.Linear(12, 5)).eval()
    groups = analyse(model, IMAGES[0]).groups
    assert confirm(model, groups, Batch.of(IMAGES[0])) == (groups, {})


class Asked:
    """Finds a distance that tells the group and the number of units it was asked about, and notes the name."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def distance(self, group: UnitGroup, kept: Tensor) -> float:
        self.names.append(group.name)
        return (1 - len(kept) / group.num_units) / (9 - int(group.name))


def test_trials_are_of_the_groups_that_are_left() -> None:
    """Where the first of three groups is left alone, what is tried of the others is theirs."""
    torch.manual_seed(0)
    layers = [conv(3, 16), nn.ReLU(), Particular(lambda n: n not in (6, 10, 16)), conv(16, 24), nn.ReLU(), conv(24, 16)]
    model = nn.Sequential(*layers, nn.ReLU(), conv(16, 4)).eval()
    settings = PruneSettings(target_macs=0.6, round_to=1)
    subject = subject_of(model, IMAGES[0][:2], settings)
    with torch.no_grad(), MomentCollector(model, subject.readers) as collector:
        for batch in IMAGES:
            model(batch)
    asked = Asked()
    found = decide(subject, replace(problem_of(subject, collector.moments), trial=asked), settings)
    assert [decision.group.name for decision in found.plan.groups] == ["3", "5"]
    assert set(asked.names) == {"0", "3", "5"}
    for decision, choice in zip(found.plan.groups, found.selection.choices, strict=True):
        assert choice.tried
        for count, distance in choice.tried.items():
            assert distance == asked.distance(decision.group, choice.order[:count])
