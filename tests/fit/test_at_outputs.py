"""The outputs decide whether a fit is taken: never worse than deletion, on few samples not on others either."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snp
from snp.fit.at_outputs import Outputs, is_few
from snp.fit.candidates import Candidates
from snp.graph.batches import Batch
from snp.measure.outputs import objective_of
from snp.surgery.surgery import masked_weights, with_weights
from tests.networks import cnn, images

# Inputs, hidden units, outputs.
SIZES = [(8, 16, 10, nn.ReLU), (20, 32, 6, nn.GELU), (32, 32, 4, nn.ReLU), (16, 64, 1, nn.ReLU)]


def mlp(seed: int, inputs: int, hidden: int, outputs: int, act: type[nn.Module]) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Linear(inputs, hidden), act(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)]
    return nn.Sequential(*layers).eval()


def deleted(model: nn.Module, result: snp.PruneResult) -> nn.Module:
    """The very same units deleted."""
    return with_weights(model, masked_weights(model, result.plan))


def spread_error(model: nn.Module, other: nn.Module, rows: Tensor, spread: Tensor) -> float:
    """Root of the mean squared error beside every output's spread."""
    with torch.no_grad():
        return float(((model(rows) - other(rows)) / spread).square().mean().sqrt())


def distances(model: nn.Module, result: snp.PruneResult, rows: Tensor) -> tuple[float, float]:
    """Of the fitted network and of deletion on some samples, by the objective of these."""
    batch = Batch((rows,))
    objective = objective_of(model, [batch])
    with torch.no_grad():
        dense, fitted, cut = (network(rows) for network in (model, result.model.eval(), deleted(model, result)))
    return tuple(objective.distance(dense, other, batch) for other in (fitted, cut))  # type: ignore[return-value]


def ratios(size: Any, count: int, seeds: range) -> list[float]:
    """Error on other samples beside deletion's, of every seed; on the calibration samples the law holds."""
    found = []
    for seed in seeds:
        model, generator = mlp(seed, *size), torch.Generator().manual_seed(1000 + seed)
        rows, others = (torch.randn(number, size[0], generator=generator) for number in (count, 2048))
        result = snp.prune(model, [rows], target_macs=0.5, progress=False)
        fitted, cut = distances(model, result, rows)
        assert fitted <= cut * (1 + 1e-4) + 1e-12
        with torch.no_grad():
            spread = model(others).std(dim=0)
        fitted, cut = (
            spread_error(model, other, others, spread) for other in (result.model.eval(), deleted(model, result))
        )
        found.append(fitted / cut)
    return found


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("count", [8, 16, 32])
def test_few_samples_do_no_harm(count: int, size: Any) -> None:
    """On samples drawn anew; and mostly good."""
    found = ratios(size, count, range(3))
    assert max(found) <= 1.03
    assert statistics.median(found) < 1.0 or count == 8


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 12, 16, 24, 48, 64, 100])
def test_few_samples_do_no_harm_for_many_seeds(count: int, size: Any) -> None:
    """The same of twenty networks; from less than eight samples nobody can tell what others look like."""
    found = ratios(size, count, range(20))
    assert max(found) <= 1.03 or count < 8
    assert statistics.median(found) < 0.95 or count < 16


@pytest.mark.parametrize("count", [6, 20])
def test_few_images_do_no_harm(count: int) -> None:
    """Convolutions, with streams, and mirrored images, which stay with their images."""
    for options in ({"streams": True}, {"mirrored": True}):
        model, pictures = cnn().eval(), images(count)
        result = snp.prune(model, [pictures], target_macs=0.6, round_to=1, progress=False, **options)
        fitted, cut = distances(model, result, pictures)
        assert fitted <= cut * (1 + 1e-4)


def candidates(model: nn.Module, rows: Tensor) -> tuple[Candidates, Outputs]:
    """Deletion of half of the first layer's units, a good fit and one that points the wrong way."""
    result = snp.prune(model, [rows], target_units=0.5, ridge=1e-4, reconstruct=False, progress=False)
    cut = masked_weights(model, result.plan)
    dense = {name: value.detach() for name, value in model.named_parameters()}
    good = {name: (dense[name] + value) / 2 for name, value in cut.items()}
    bad = {name: 2 * value - dense[name] for name, value in cut.items()}
    return Candidates(cut, (bad, good)), Outputs(model, objective_of(model, [Batch((rows,))]))


def test_what_is_farther_than_deletion_is_not_taken() -> None:
    """Whatever layers said for it; and steps lie between deletion and a fit."""
    model, rows = mlp(0, *SIZES[1]), torch.randn(256, 20, generator=torch.Generator().manual_seed(0))
    found, outputs = candidates(model, rows)
    inputs = Batch((rows,)).split(60)
    assert not outputs.serves(found, inputs)
    assert outputs.serves(Candidates(found.deleted, found.fits[1:]), inputs)
    away = outputs.distances(found, inputs)
    assert len(found) == len(away) == 9
    best = outputs.best(found, inputs)
    assert all(torch.equal(best[name], value) for name, value in found.fits[1].items())
    for name, value in found.tensors(6, model).items():  # half way
        torch.testing.assert_close(value, (found.deleted[name] + found.fits[1][name]) / 2)
    for number in range(4):
        assert away[number] > away[-1]


def test_a_fit_that_serves_its_own_samples_alone_is_not_taken() -> None:
    """It is the dense network where it was fitted, and the wrong way anywhere else."""
    model, rows = mlp(1, *SIZES[1]), torch.randn(40, 20, generator=torch.Generator().manual_seed(0))
    found, outputs = candidates(model, rows)
    bad, good = found.fits
    everywhere = Batch((rows,)).split(10)
    dense = {name: value.detach() for name, value in model.named_parameters() if name in found.deleted}
    own, others = Candidates(found.deleted, (dense, good)), Candidates(found.deleted, (bad, good))
    taken = outputs.best_of_few(own, everywhere, lambda some: others)
    assert all(torch.equal(taken[name], value) for name, value in good.items())
    taken = outputs.best_of_few(
        Candidates(found.deleted, (dense,)), everywhere, lambda some: Candidates(found.deleted, (bad,))
    )
    assert all(torch.equal(taken[name], value) for name, value in found.deleted.items())


def test_a_fit_that_some_samples_did_not_change_is_not_taken() -> None:
    """Where three quarters of the samples leave every layer as it is, nothing speaks for what all of them did."""
    model, rows = mlp(1, *SIZES[1]), torch.randn(40, 20, generator=torch.Generator().manual_seed(0))
    found, outputs = candidates(model, rows)
    own, others = Candidates(found.deleted, (found.fits[1],)), Candidates(found.deleted, (found.deleted,))
    taken = outputs.best_of_few(own, Batch((rows,)).split(10), lambda some: others)
    assert all(torch.equal(taken[name], value) for name, value in found.deleted.items())


def test_neighbours_that_say_the_same_are_held_back_together() -> None:
    """Every sample is held back once, and no sample of its group is fitted on then, however batches are split."""
    model, rows = mlp(2, *SIZES[0]), torch.randn(38, 8, generator=torch.Generator().manual_seed(0))
    rows[:, 0] = torch.arange(38) // 2
    found, outputs = candidates(model, rows)
    fitted: list[set[float]] = []

    def fit(some: Any) -> Candidates:
        fitted.append({float(value) for batch in some for value in batch.args[0][:, 0]})
        assert sum(batch.size for batch in some) == 2 * len(fitted[-1])
        return found

    Outputs(model, outputs.objective, group=2).best_of_few(found, Batch((rows,)).split(7), fit, at_once=4)
    everything = set(range(19))
    held = [everything - each for each in fitted]
    assert len(held) == 4
    assert set.union(*held) == everything
    assert sum(map(len, held)) == 19


def test_a_ridge_of_ones_own_is_a_fit_of_ones_own() -> None:
    """Nobody asks the outputs then; and many samples ask no fold."""
    assert is_few(127)
    assert not is_few(128)
    model, rows = mlp(3, *SIZES[1]), torch.randn(16, 20, generator=torch.Generator().manual_seed(0))
    asked: list[int] = []

    def objective(dense: Tensor, other: Tensor) -> Tensor:
        asked.append(len(dense))
        return (dense - other).square().mean()

    options: dict[str, Any] = {"target_units": 0.5, "ordering": "zca", "objective": objective, "progress": False}
    snp.prune(model, [rows], ridge=1e-4, **options)
    alone = len(asked)
    snp.prune(model, [rows], **options)
    assert len(asked) > alone + 8 * 9 - 1  # of two folds, eight parts, all candidates
    before = len(asked)
    snp.prune(model, [torch.randn(256, 20)], **options)
    assert len(asked) == before + alone + 3  # the dense network itself, the fit and deletion


@pytest.mark.parametrize("count", [12, 200])
def test_where_an_objective_begins_has_no_say(count: int) -> None:
    """A squared error less ten chooses what the squared error does."""
    model, rows = mlp(0, *SIZES[1]), torch.randn(count, 20, generator=torch.Generator().manual_seed(0))
    found, outputs = candidates(model, rows)
    squared = outputs.objective
    inputs = Batch((rows,)).split(25)

    def below(dense: Tensor, other: Tensor) -> float:
        batch = Batch((rows[: len(dense)],))
        return squared.distance(dense, other, batch) / len(dense) - 10

    lower = Outputs(model, replace(squared, function=below))
    torch.testing.assert_close(lower.distances(found, inputs), outputs.distances(found, inputs), rtol=1e-6, atol=1e-9)
    chosen = [each.best_of_few(found, inputs, lambda some: found) for each in (lower, outputs)]
    assert all(torch.equal(value, chosen[1][name]) for name, value in chosen[0].items())
