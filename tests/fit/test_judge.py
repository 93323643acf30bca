"""Is a whole plan judged by what its fitted network does to samples that nothing was fitted on?"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from snp.fit.calibration import Measured
from snp.fit.judge import FEWEST_SAMPLES, FitJudge
from snp.fit.preparation import prepare, problem_of
from snp.fit.realise import realise
from snp.graph.batches import Batch
from snp.library import prune
from snp.measure.moments import MomentCollector
from snp.measure.outputs import objective_of
from snp.measure.samples import Samples
from snp.plan.plan import GroupPlan, PruningPlan
from snp.plan.problem import Problem
from snp.settings import PruneSettings
from snp.surgery.subject import Subject, subject_of
from tests import networks

SETTINGS = PruneSettings(target_macs=0.5, round_to=1, ridge=1e-3)


def measured(model: nn.Module, inputs: list[Batch]) -> tuple[Subject, Problem]:
    subject = subject_of(model, inputs[0].first(2), SETTINGS)
    with torch.no_grad(), MomentCollector(model, subject.readers) as collector:
        for batch in inputs:
            collector.measure(batch)
    return subject, problem_of(subject, collector.moments)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SETTINGS.seed)


def halves(problem: Problem) -> list[GroupPlan]:
    return [GroupPlan(group, torch.arange(0, group.num_units, 2)) for group in problem.groups]


@pytest.mark.parametrize("sizes", [[160], [64, 64, 32]])
@pytest.mark.parametrize("make", [networks.cnn, networks.attention], ids=lambda make: make.__name__)
def test_distance_is_that_of_the_small_network_on_other_samples(
    make: Callable[[], nn.Module], sizes: list[int]
) -> None:
    """A quarter, drawn by the seed, is fitted on; the small network of that fit is as far on the others."""
    model = make()
    inputs = networks.images(160) if make is networks.cnn else networks.tokens(160)
    batches = Batch.all(inputs.split(sizes))
    subject, problem = measured(model, batches)
    judge = FitJudge(subject, problem, SETTINGS.fit, batches, objective_of(model, batches), generator())
    found = judge.distances(halves(problem))
    order = torch.randperm(160, generator=torch.Generator().manual_seed(SETTINGS.seed))
    fitted, others = inputs[order[:40].sort().values], inputs[order[40:].sort().values]
    plan = PruningPlan(tuple(halves(problem)), attention=subject.graph.attention)
    small = realise(subject, problem, plan, SETTINGS.fit, Samples.of([Batch((fitted,))])).model
    with torch.no_grad():
        wanted, given = model(others).log_softmax(-1), small(others).log_softmax(-1)
        apart = F.kl_div(given, wanted, log_target=True, reduction="none").flatten(1).sum(1)
    expected = torch.stack([piece.mean() for piece in apart.split(32)]).double()
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-6)


def test_a_whole_network_is_no_way_off() -> None:
    """Nothing cut, nothing moved; and the same plan is judged the same again."""
    model, batches = networks.cnn(), Batch.all([networks.images(128)])
    subject, problem = measured(model, batches)
    judge = FitJudge(subject, problem, SETTINGS.fit, batches, objective_of(model, batches), generator())
    whole = [GroupPlan(group, torch.arange(group.num_units)) for group in problem.groups]
    assert float(judge.distances(whole).abs().max()) < 1e-9
    assert torch.equal(judge.distances(halves(problem)), judge.distances(halves(problem)))


@pytest.mark.parametrize(
    ("count", "options", "is_judged"),
    [
        (FEWEST_SAMPLES, {}, True),
        (FEWEST_SAMPLES - 1, {}, False),
        (FEWEST_SAMPLES, {"tilt": False}, False),
        (FEWEST_SAMPLES, {"trials": False}, False),
        (FEWEST_SAMPLES, {"calibration": "joint"}, False),
        (FEWEST_SAMPLES, {"preset": "quick"}, False),
    ],
)
@pytest.mark.parametrize("mirrored", [False, True])
def test_when_plans_are_judged(count: int, options: dict[str, object], is_judged: bool, mirrored: bool) -> None:
    """With samples enough, not counting mirrored ones, where trials and the fit in sequence are asked for."""
    settings = PruneSettings(**({"target_macs": 0.5} | options))  # type: ignore[arg-type]
    model, batches = networks.cnn(), Batch.all([networks.images(count)])
    subject = subject_of(model, batches[0].first(2), settings)
    samples, objective = Samples.of(batches, mirrored=mirrored), objective_of(model, batches)
    _, alone = measured(model, batches)
    _, problem = prepare(Measured(subject, alone.moments, samples, objective), settings)
    assert (problem.judge is not None) == is_judged


def test_library_says_which_tilt_it_took() -> None:
    """The plan says it; without a choice to make it is none; the budget is met in both."""
    model, images = networks.cnn(), networks.images(160)
    chosen = prune(model, [images], target_macs=0.5, round_to=1, progress=False)
    plain = prune(model, [images], target_macs=0.5, round_to=1, tilt=False, progress=False)
    assert plain.plan.settings["tilted"] == 0.0
    assert isinstance(chosen.plan.settings["tilted"], float)
    for result in (chosen, plain):
        assert result.plan.macs["pruned"] <= 0.5 * result.plan.macs["dense"]
    if chosen.plan.settings["tilted"] == 0:
        assert [group.kept.tolist() for group in chosen.plan.groups] == [g.kept.tolist() for g in plain.plan.groups]
    assert "try allocations" in chosen.times
    assert "try allocations" not in plain.times
