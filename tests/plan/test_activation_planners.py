"""Do the peers that look at activations score what their papers log, against plain loops over the data?"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from snp.fit.preparation import problem_of
from snp.graph.batches import Batch
from snp.measure.moments import MomentCollector
from snp.plan import planners
from snp.plan.planners import flap, wanda_sp
from snp.plan.problem import Problem
from snp.settings import PruneSettings
from snp.surgery.subject import Subject, subject_of
from tests.audit import randomise


@pytest.fixture(scope="module")
def data() -> Tensor:
    return torch.randn(200, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return randomise(nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3))).eval()


@pytest.fixture(scope="module")
def subject(network: nn.Module, data: Tensor) -> Subject:
    return subject_of(network, data[:2], PruneSettings())


@pytest.fixture(scope="module")
def problem(subject: Subject, data: Tensor) -> Problem:
    with torch.no_grad(), MomentCollector(subject.model, subject.readers) as collector:
        subject.model(data)
    return problem_of(subject, collector.moments)


def test_wanda_sp_is_the_sum_over_weights(network: nn.Module, problem: Problem, data: Tensor) -> None:
    """|W_oj| times the root mean square of input j, summed over o."""
    with torch.no_grad():
        hidden = network[:2](data).double()
    weight = network[2].weight.detach().double()
    expected = [
        sum(abs(float(row[unit])) * float(hidden[:, unit].square().mean().sqrt()) for row in weight)
        for unit in range(12)
    ]
    torch.testing.assert_close(wanda_sp.scores(problem, problem.groups[0]), torch.tensor(expected).double())


def test_flap_is_variance_times_squared_norm(network: nn.Module, problem: Problem, data: Tensor) -> None:
    """Var(x_j) ||W_:j||^2 over the calibration samples."""
    with torch.no_grad():
        hidden = network[:4](data).double()
    weight = network[4].weight.detach().double()
    expected = hidden.var(dim=0, correction=0) * weight.square().sum(dim=0)
    torch.testing.assert_close(flap.scores(problem, problem.groups[1]), expected)


def test_flap_gives_groups_their_own_share(problem: Problem) -> None:
    """One threshold on standardised scores: the units above it, in every group."""
    settings = PruneSettings(planner="flap", target_units=0.5, cut="uniform")
    selection = planners.load("flap")(replace(problem, target=settings.target), settings)
    pooled = []
    for group in problem.groups:
        values = flap.scores(problem, group)
        pooled.append((values - values.mean()) / values.std(correction=0))
    threshold = torch.cat(pooled).sort(descending=True).values[round(0.5 * 21 + 0.01) - 1]
    for choice, values in zip(selection.choices, pooled, strict=True):
        assert choice.num_kept == max(1, int((values >= threshold).sum()))
        assert torch.equal(choice.order, values.argsort(descending=True, stable=True))


@pytest.mark.parametrize("conv_gram", ["channel", "patch"])
def test_grouped_kernels_score_as_their_blocks(conv_gram: str) -> None:
    """A channel that a grouped convolution reads is scored by the rows of its own block alone."""
    torch.manual_seed(0)
    layers = nn.Conv1d(3, 8, 1), nn.Conv1d(8, 6, 3, groups=2), nn.Flatten(), nn.Linear(18, 2)
    model, data = randomise(nn.Sequential(*layers)).eval(), torch.randn(20, 3, 5)
    settings = PruneSettings(conv_gram=conv_gram, calibration="joint", target_units=0.5)
    subject = subject_of(model, Batch.of(data[:2]), settings)
    with torch.no_grad(), MomentCollector(subject.model, subject.readers) as collector:
        model(data)
        hidden = model[0](data).double()  # [20, 8, 5]
    problem = problem_of(subject, collector.moments)
    windows = hidden.unfold(2, 3, 1)  # [20, 8, 3 positions, 3 taps]
    if conv_gram == "channel":
        windows = hidden[..., None, None].flatten(2, 3).expand(-1, -1, -1, 3)
    weight = model[1].weight.detach().double()
    for planner, size, spread in (
        (flap, weight.square(), windows.transpose(0, 1).transpose(1, 3).flatten(2).var(2, correction=0)),
        (wanda_sp, weight.abs(), windows.square().mean((0, 2)).sqrt()),
    ):
        rows = [size[unit // 4 * 3 :][:3, unit % 4].sum(0) for unit in range(8)]  # three rows of the unit's block
        expected = [float((row * spread[unit]).sum()) for unit, row in enumerate(rows)]
        torch.testing.assert_close(planner.scores(problem, problem.groups[0]), torch.tensor(expected).double())
