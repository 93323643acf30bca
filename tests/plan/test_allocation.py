"""Is what a planner chose a value that can be stored, compared, and moved to another level?"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from snp.fit.calibration import Measured, sensitivity_of
from snp.fit.preparation import prepare
from snp.graph.batches import Batch
from snp.measure.samples import Samples
from snp.models.sources.weights import write_tensors
from snp.plan import planners
from snp.plan.allocation import Curves, PooledScores, equal_shares
from snp.plan.level import kept_at_level, moved
from snp.plan.problem import Problem, Selection
from snp.settings import PruneSettings
from snp.surgery.subject import subject_of
from tests.measured import measured_moments
from tests.networks import cnn, images

SETTINGS = PruneSettings(target_macs=0.6, round_to=1)


@pytest.fixture(scope="module")
def problem() -> Problem:
    subject, inputs = subject_of(cnn(), images(2), SETTINGS), [Batch.of(images(24))]
    moments = measured_moments(subject, inputs)
    measured = Measured(subject, moments, Samples.of(inputs), sensitivity=sensitivity_of(subject, inputs))
    return replace(prepare(measured, SETTINGS)[1], target=SETTINGS.target)


def chosen(problem: Problem, planner: str, **options: object) -> Selection:
    settings = replace(SETTINGS, planner=planner, **options)  # type: ignore[arg-type]
    return planners.load(planner)(replace(problem, target=settings.target), settings)


def are_equal(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("planner", planners.names())
def test_a_selection_is_a_value(problem: Problem, planner: str, tmp_path: Path) -> None:
    """Made twice it is the same; written and read it is the same; at another budget it is another."""
    found = chosen(problem, planner).tensors()
    assert are_equal(found, chosen(problem, planner).tensors())
    write_tensors(found, tmp_path / "selection.safetensors")
    assert are_equal(found, load_file(tmp_path / "selection.safetensors"))
    assert not are_equal(found, chosen(problem, planner, target_macs=0.5).tensors())


@pytest.mark.parametrize("planner", planners.names())
def test_the_allocation_says_what_was_kept(problem: Problem, planner: str) -> None:
    """At the level found it keeps what was chosen, and moving to the same budget moves nothing."""
    found = chosen(problem, planner)
    assert found.allocation is not None
    kept = kept_at_level(problem, found.allocation, found.level)
    assert kept == [choice.num_kept for choice in found.choices]
    again = moved(problem, found)
    assert again.level == found.level
    assert [choice.num_kept for choice in again.choices] == kept


def test_trials_are_kept_beside_what_they_corrected(problem: Problem) -> None:
    """Every trial's divergence is there as it was found; without trials there is none."""
    found = chosen(problem, "snp")
    assert sum(len(choice.tried) for choice in found.choices) >= len(problem.groups)
    for number, choice in enumerate(found.choices):
        for count, divergence in choice.tried.items():
            assert problem.trial is not None
            assert divergence == problem.trial.distance(problem.groups[number], choice.order[:count])
    untried = chosen(replace(problem, trial=None), "snp")
    assert not any(choice.tried for choice in untried.choices)
    assert not are_equal(found.tensors(), untried.tensors())


def test_pooled_scores_are_a_threshold_on_all_units() -> None:
    """The share of all units above one threshold; equal scores go together, and no group loses all."""
    scores = PooledScores((torch.tensor([5.0, 1.0, 3.0]), torch.tensor([0.0, 0.5]), torch.tensor([3.0, 9.0, 8.0])))
    for level, wanted in [(1.0, [3, 2, 3]), (0.5, [2, 1, 3]), (0.375, [1, 1, 2]), (0.01, [1, 1, 1])]:
        assert [scores.num_kept(group, level) for group in range(3)] == wanted


def test_equal_shares_are_the_uniform_cut() -> None:
    """To the nearest unit, at least one."""
    assert [equal_shares([10, 7, 3]).num_kept(group, 0.5) for group in range(3)] == [5, 4, 2]
    assert isinstance(equal_shares([4]), Curves)
    assert equal_shares([9]).num_kept(0, 0.01) == 1
