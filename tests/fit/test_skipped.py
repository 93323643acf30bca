"""Does the layer in front of a block that goes make up for it, as far as it can?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snp.core.fit_settings import FitSettings
from snp.fit.calibration import Measured
from snp.fit.preparation import prepare, problem_of
from snp.fit.probes import last_samples, without_last
from snp.fit.realise import in_sequence, realise
from snp.fit.trials import Trials
from snp.graph.batches import Batch
from snp.measure.moments import MomentCollector
from snp.measure.outputs import objective_of
from snp.measure.samples import Samples
from snp.plan.plan import PruningPlan
from snp.plan.problem import Problem
from snp.settings import PruneSettings
from snp.surgery.subject import Subject, subject_of
from snp.surgery.surgery import masked_weights, with_weights
from tests.residual_networks import Attending, Basic, Chain, Scaled, chain, vectors

SETTINGS = PruneSettings(structures=("ffn", "blocks"), target_macs=0.5, round_to=1)
KINDS = (Basic, Attending, Scaled)


class Linear(nn.Module):
    """A matrix beside the stream, in two steps so that there are units to cut."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x))


def measured(model: nn.Module, inputs: Tensor) -> tuple[Subject, Problem, list[Batch]]:
    batches = Batch.all(inputs.split(40))
    subject = subject_of(model, inputs[:2], SETTINGS)
    with torch.no_grad(), MomentCollector(subject.model, subject.readers) as collector:
        for batch in batches:
            collector.measure(batch)
    return subject, problem_of(subject, collector.moments), batches


def fitted(model: nn.Module, inputs: Tensor, gone: tuple[int, ...], **options: Any) -> tuple[nn.Module, float, float]:
    """The network without blocks, and its mean square error fitted and as they are left out."""
    subject, problem, batches = measured(model, inputs)
    plan = PruningPlan((), removed_blocks=tuple(subject.removable[number] for number in gone))
    settings = FitSettings(**{"ridge": 1e-6, **options})
    small = realise(subject, problem, plan, settings, Samples.of(batches)).model
    deleted = with_weights(subject.model, masked_weights(subject.model, plan))
    with torch.no_grad():
        wanted = subject.model(inputs)
        return small, *(float((one(inputs) - wanted).square().mean()) for one in (small, deleted))


@pytest.mark.parametrize("gone", [(0,), (1,), (0, 1), (0, 2), (0, 1, 2)])
def test_what_the_layer_in_front_can_do_is_done_without_error(gone: tuple[int, ...]) -> None:
    """Linear blocks behind a linear layer are one linear layer."""
    torch.manual_seed(0)
    model = Chain(nn.Linear(8, 8), [Linear() for _ in range(3)]).eval()
    _, error, deleted = fitted(model, torch.randn(160, 8), gone)
    assert deleted > 1e-3
    assert error < 1e-8 * deleted


@pytest.mark.parametrize("gone", [(1,), (2,), (1, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_block_goes_at_less_damage_than_deletion_does(kind: type[nn.Module], gone: tuple[int, ...]) -> None:
    _, error, deleted = fitted(chain(kind), vectors(kind, 200), gone)
    assert error < 0.9 * deleted


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_stands_in_front_aims_behind_the_block(kind: type[nn.Module]) -> None:
    """With the last block gone nothing is behind it but the head: weights in front of the aim are the dense ones."""
    subject, problem, batches = measured(chain(kind), vectors(kind, 80))
    plan = PruningPlan((), removed_blocks=subject.removable[2:])
    found = in_sequence(subject, problem, plan, FitSettings(ridge=1e-6), batches).tensors
    last = {Basic: "second", Attending: "down", Scaled: "down"}[kind]
    aimed = {name for name in found if not name.startswith(("blocks.2.", "head."))}
    assert f"blocks.1.{last}.weight" in aimed
    assert all(name.startswith((f"blocks.1.{last}", "blocks.1.last")) for name in aimed)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_a_block_of_zeros_goes_at_no_loss_to_the_bit(kind: type[nn.Module], number: int) -> None:
    model, inputs = chain(kind), vectors(kind, 160)
    subject, problem, batches = measured(model, inputs)
    block = subject.removable[number]
    for name in block.writers:
        model.get_parameter(name).data.zero_()
    subject, problem, batches = measured(model, inputs)
    plan = PruningPlan((), removed_blocks=(block,))
    small = realise(subject, problem, plan, FitSettings(), Samples.of(batches)).model
    assert torch.equal(small(inputs), model(inputs))
    trials = Trials(subject, problem_with_blocks(subject, problem), batches, fit=FitSettings())
    assert trials.distance_without(block) == 0.0


def problem_with_blocks(subject: Subject, problem: Problem) -> Problem:
    return replace(problem, blocks=subject.removable)


@pytest.mark.parametrize("replays", [False, True])
def test_a_trial_is_the_distance_of_the_network_without_the_block(replays: bool) -> None:
    """Linear blocks are made up for; what is left is nothing. With nothing in front it is deletion's."""
    torch.manual_seed(0)
    model = Chain(nn.Linear(8, 8), [Linear() for _ in range(2)]).eval()
    subject, problem, batches = measured(model, torch.randn(160, 8))
    problem = problem_with_blocks(subject, problem)
    mended = Trials(subject, problem, batches, replays=replays, fit=FitSettings(ridge=1e-6))
    alone = Trials(subject, problem, batches, replays=replays)
    for block in subject.removable:
        assert mended.distance_without(block) < 1e-6
        assert alone.distance_without(block) > 1e-3


@pytest.mark.parametrize("sizes", [[40], [25, 15], [10, 10, 10, 10], [33, 7]])
@pytest.mark.parametrize("count", [1, 8, 10, 20])
def test_no_sample_is_fitted_on_and_predicted(sizes: list[int], count: int) -> None:
    batches = Batch.all(torch.arange(40)[:, None].split(sizes))
    last, others = (
        {int(number) for batch in some for number in batch.args[0]}
        for some in (last_samples(batches, count), without_last(batches, count, 99))
    )
    assert len(last) == count
    assert last | others == set(range(40))
    assert not last & others


def test_blocks_need_samples_enough_to_judge() -> None:
    model, inputs = chain(Scaled), vectors(Scaled, 60)
    subject, problem, batches = measured(model, inputs)
    known = Measured(subject, dict(problem.moments), Samples.of(batches), objective_of(model, batches))
    with pytest.raises(ValueError, match=r"judges whole allocations by 128 calibration samples or more; found 60"):
        prepare(known, SETTINGS)
