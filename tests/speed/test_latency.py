"""Do layer times become predictions that measured networks confirm, and budgets that hold?"""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snp
from snp.data.digits import Digits
from snp.fit.preparation import problem_of
from snp.graph.batches import Batch
from snp.measure.moments import MomentCollector
from snp.plan import planners
from snp.plan.budgets import use_up
from snp.plan.costs import CostModel
from snp.plan.latency_table import LatencyTable, LayerTimes
from snp.plan.plan import GroupPlan, PruningPlan
from snp.plan.problem import Problem
from snp.run.cache import Cache
from snp.settings import PruneSettings
from snp.speed.clock import checked_by_clock
from snp.speed.consistent_times import calibrated, rising
from snp.speed.layer_times import measure_table, measured_share
from snp.speed.passes import Conditions
from snp.speed.timing import NUM_WARMUP, time_in_turns
from snp.surgery.subject import Subject, subject_of, survey
from snp.surgery.surgery import cut
from tests.command_line import run_here


def wide() -> nn.Module:
    """Convolutions, plain, grouped and depthwise, heavy enough to be timed."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1, groups=64)]
    layers += [nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 64, 3, padding=1, groups=4), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)).eval()


@pytest.fixture(scope="module")
def measured() -> tuple[nn.Module, CostModel, tuple[object, ...]]:
    model, images = wide(), torch.randn(2, 3, 24, 24)
    found = subject_of(model, images, PruneSettings())
    table = measure_table(found, Batch.of(images), Conditions(4, 1))
    return model, CostModel(model, found.graph, found.groups, table), found.groups


def test_table_gives_back_the_passes_it_was_calibrated_on(
    measured: tuple[nn.Module, CostModel, tuple[object, ...]],
) -> None:
    """Dense and half-cut network take by the table what they took by the clock."""
    _, costs, _ = measured
    table = costs.table
    assert table is not None
    half = [size // 2 for size in costs.dense]
    assert costs.latency(costs.dense) == pytest.approx(table.measured["dense"])
    assert costs.latency(half) == pytest.approx(table.measured["half"], rel=1e-6)
    assert (table.batch, table.threads) == (4, 1)
    assert set(table.layers) == set(costs.resized_weights)


def test_fewer_units_take_no_longer(measured: tuple[nn.Module, CostModel, tuple[object, ...]]) -> None:
    """The prediction never falls as any group grows: what bisection relies on."""
    _, costs, groups = measured
    for number, group in enumerate(groups):
        times = [
            costs.latency([*costs.dense[:number], kept, *costs.dense[number + 1 :]])
            for kept in range(group.num_partitions, group.num_units + 1, group.num_partitions)  # type: ignore[attr-defined]
        ]
        assert all(early <= late + 1e-9 for early, late in pairwise(times))
        assert times[0] < times[-1]


def test_table_outlives_the_process(measured: tuple[nn.Module, CostModel, tuple[object, ...]]) -> None:
    """JSON and back predicts the same; damaged text is refused by name."""
    _, costs, _ = measured
    assert costs.table is not None
    again = LatencyTable.from_json(costs.table.to_json())
    kept = [max(4, size // 4 * 3) for size in costs.dense]
    assert again.layers_ms(costs.sizes(kept, again.layers)) == costs.table.layers_ms(costs.sizes(kept, again.layers))
    for text in ("", "{}", "[1]", json.dumps({"layers": {"a": {}}})):
        with pytest.raises(ValueError, match=r"latency\.json is damaged"):
            LatencyTable.from_json(text)


def test_interpolation_by_hand() -> None:
    """Linear between sizes, to nothing below the smallest, and constant where a size stands alone."""
    times = LayerTimes((4, 8), (2, 6), ((1.0, 3.0), (2.0, 6.0)))
    assert times.at(4, 2) == 1.0
    assert times.at(8, 6) == 6.0
    assert times.at(6, 4) == pytest.approx((1 + 3 + 2 + 6) / 4)
    assert times.at(2, 2) == pytest.approx(0.5)
    assert times.at(0, 6) == 0.0
    fixed = LayerTimes((4, 8), (3,), ((1.0,), (2.0,)))
    assert [fixed.at(rows, 3) for rows in (2, 4, 6, 8)] == [0.5, 1.0, 1.5, 2.0]


def test_times_are_made_to_rise() -> None:
    """Rising tables stay as they are; a dent is levelled between its neighbours' bounds."""
    assert rising([[1.0, 2.0], [3.0, 4.0]]) == ((1.0, 2.0), (3.0, 4.0))
    assert rising([[1.0], [5.0], [3.0], [6.0]]) == ((1.0,), (4.0,), (4.0,), (6.0,))
    values = torch.rand(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fixed = torch.tensor(rising(values.tolist()), dtype=torch.float64)
    assert bool((fixed.diff(dim=0) >= 0).all())
    assert bool((fixed.diff(dim=1) >= 0).all())


@pytest.mark.parametrize(
    "facts",
    [
        (10.0, 5.5, 4.0, 2.0, 0.6),
        (10.0, 4.0, 5.0, 2.0, 0.5),
        (10.0, 4.0, 12.0, 2.0, 0.5),
        (10.0, 11.0, 5.0, 2.0, 0.5),
        (10.0, 5.0, 9.0, 4.0, 0.7),
    ],
)
def test_calibration_meets_both_networks(facts: tuple[float, float, float, float, float]) -> None:
    """Scale and activations are no less than zero, and the dense time is met; the other as far as it is no longer."""
    dense_ms, cut_ms, dense_layers, cut_layers, activations = facts
    scale, of_activations, constant = calibrated(*facts)
    assert min(scale, of_activations, constant) >= 0
    assert scale * dense_layers + of_activations + constant == pytest.approx(dense_ms)
    wanted = scale * cut_layers + of_activations * activations + constant
    assert wanted == pytest.approx(min(cut_ms, dense_ms))


def test_calibration_that_cannot_meet_both_meets_the_dense_network() -> None:
    """Times that fall faster than layers and activations together: nothing is below zero, and dense is dense."""
    scale, of_activations, constant = calibrated(10.0, 2.0, 5.0, 2.4, 0.5)
    assert min(scale, of_activations, constant) >= 0
    assert scale * 5.0 + of_activations + constant == pytest.approx(10.0)


def test_corrected_table_says_what_was_measured(measured: tuple[nn.Module, CostModel, tuple[object, ...]]) -> None:
    """Dense and the measured network are met, and between them smaller stays faster."""
    _, costs, _ = measured
    assert costs.table is not None
    kept, dense = [max(4, size // 4 * 3) for size in costs.dense], costs.latency(costs.dense)
    before = costs.latency(kept) / dense
    for share in (0.3, 0.9, 1.2):
        corrected = costs.corrected(kept, share)
        assert corrected.latency(costs.dense) == pytest.approx(dense)
        assert corrected.latency(kept) / dense == pytest.approx(min(share, 0.999))
        half = [size // 2 for size in costs.dense]
        assert corrected.latency(half) < corrected.latency(kept)
    assert costs.latency(kept) / dense == before


def square_root_table(subject: Subject) -> LatencyTable:
    """A machine on which a layer takes the square root of its weight's size."""
    costs = CostModel(subject.model, subject.graph, subject.groups)
    times = {}
    for name, (rows, columns) in costs.sizes(costs.dense, costs.resized_weights).items():
        sizes = tuple(sorted({max(1, rows // part) for part in (8, 4, 2, 1)})), (max(1, columns // 2), columns)
        sizes = sizes[0], tuple(sorted(set(sizes[1])))
        times[name] = LayerTimes(*sizes, tuple(tuple((row * column) ** 0.5 for column in sizes[1]) for row in sizes[0]))
    raw = LatencyTable(times, 1.0, 0.0, 0.0, 4, 1, "none", {"dense": 1.0})
    return replace(raw, measured={"dense": raw.layers_ms(costs.sizes(costs.dense, times))})


@pytest.mark.parametrize("power", [0.4, 1.0])
def test_budget_holds_by_another_clock(power: float) -> None:
    """On a machine where time goes with a power of the parameters, the network chosen takes the share asked for."""
    corrected, kept, whole = chosen_by(lambda left: left**power)
    assert 0.59 <= corrected.costs.latency(kept) / corrected.costs.latency(corrected.costs.dense) <= 0.6
    assert (corrected.costs.params(kept) / whole) ** power == pytest.approx(0.6, abs=0.015)


HARD = {
    "steps": lambda left: 0.61 + 0.3 * left if left > 0.05 else 0.4,
    "root": lambda left: 0.5 + 0.5 * left**0.5,
    "overhead": lambda left: 0.58 + 0.42 * left,
}


@pytest.mark.parametrize("clock", HARD)
def test_what_can_be_reached_is_not_called_out_of_reach(clock: str) -> None:
    """Six networks near the budget are too slow; much smaller ones are timed before it is refused."""
    corrected, kept, whole = chosen_by(HARD[clock])
    assert HARD[clock](corrected.costs.params(kept) / whole) <= 0.605


def test_a_budget_that_no_network_meets_is_refused_as_it_was_asked() -> None:
    """The message names the budget, not what was aimed at on the way."""
    with pytest.raises(ValueError, match=r"target_latency=0\.6 cannot be (reached|met).*or cut residual streams too"):
        chosen_by(lambda left: 0.61 + 0.3 * left)


def chosen_by(clock: Callable[[float], float]) -> tuple[Problem, list[int], int]:
    """What a clock lets be chosen for 60 % of the time; it gets the share of the parameters that is left."""
    model, images = wide(), torch.randn(16, 3, 24, 24)
    settings = PruneSettings(ordering="variance", cut="uniform", calibration="joint", target_latency=0.6)
    subject = subject_of(model, images[:2], settings)
    with torch.no_grad(), MomentCollector(subject.model, subject.readers) as collector:
        model(images)
    problem = problem_of(subject, collector.moments, table=square_root_table(subject))
    problem = replace(problem, target=settings.target)
    chosen = use_up(problem, planners.load("snp")(problem, settings))
    whole = sum(parameter.numel() for parameter in model.parameters())

    def share_of(small: nn.Module) -> float:
        return clock(sum(parameter.numel() for parameter in small.parameters()) / whole)

    corrected, selection = checked_by_clock(subject, problem, chosen, share_of)
    return corrected, selection.kept, whole


def test_turns_are_taken() -> None:
    """Every call warms up and is then timed as often as all others, in turns, with the threads asked for."""
    seen: list[tuple[str, int]] = []
    calls = {name: (lambda name=name: seen.append((name, torch.get_num_threads()))) for name in "ab"}
    before = torch.get_num_threads()
    times = time_in_turns(calls, num_threads=2, min_rounds=3, min_seconds=0.0)
    assert [name for name, _ in seen] == ["a"] * NUM_WARMUP + ["b"] * NUM_WARMUP + ["a", "b"] * 3
    assert {number for _, number in seen} == {2}
    assert torch.get_num_threads() == before
    assert {name: (len(found.wall), len(found.own)) for name, found in times.items()} == {"a": (3, 3), "b": (3, 3)}
    assert times["a"].own == times["a"].wall
    with pytest.raises(ValueError, match="num_threads"):
        time_in_turns(calls, num_threads=0)


def test_time_of_other_programs_is_left_out() -> None:
    """A call that sleeps takes wall time and hardly any of its own; one that computes takes both."""
    rows = torch.randn(300, 300)
    found = time_in_turns({"sleep": lambda: time.sleep(0.02), "work": lambda: rows @ rows}, min_rounds=3, min_seconds=0)
    assert min(found["sleep"].wall) >= 0.02
    assert max(found["sleep"].own) < 0.01
    assert all(0 < own <= 1.01 * wall for own, wall in zip(found["work"].own, found["work"].wall, strict=True))


def test_measured_share_sees_which_network_is_smaller() -> None:
    """A quarter of the channels takes clearly less of the time than all; quartiles enclose each other."""
    model, images = wide(), torch.randn(3, 3, 24, 24)
    groups = survey(model, images[:2], PruneSettings()).groups
    kept = [torch.arange(group.num_units).reshape(group.num_partitions, -1) for group in groups]
    quarter = [GroupPlan(g, k[:, : k.shape[1] // 4].flatten()) for g, k in zip(groups, kept, strict=True)]
    found = measured_share(model, cut(model, PruningPlan(tuple(quarter))), Batch.of(images), Conditions(4, 1))
    assert found["measured_share"] < 0.9
    assert found["idle_share"] == 0  # nothing waits on a CPU; where graphs are left out nobody looks
    assert "idle_share" not in measured_share(model, model, Batch.of(images), Conditions(4, 1, graphs=False))
    assert found["measured_share_low"] <= found["measured_share_high"]
    assert found["measured_share"] == pytest.approx(found["pruned_ms"] / found["dense_ms"])


def test_latency_budget_of_the_library_call() -> None:
    """The network chosen takes what was asked for by the clock, and the plan carries that beside what it predicts.

    Time falls in jumps with the widths of these grouped convolutions, so no network may lie next below the budget.
    """
    model, images = wide(), torch.randn(16, 3, 24, 24)
    options = {"ordering": "variance", "cut": "uniform", "calibration": "joint", "latency_batch": 4}
    result = snp.prune(model, [images], target_latency=0.7, **options)
    facts = PruningPlan.from_json(result.plan.to_json()).latency
    assert 0 < facts["predicted_share"] <= 0.71
    assert facts["own_share"] == pytest.approx(facts["predicted_share"], rel=0.1)
    assert (facts["batch"], facts["threads"]) == (4, 1)
    assert result.plan.settings["target"] == {"latency": 0.7}


def test_latency_goes_with_the_output_cut_and_with_tokens() -> None:
    """Linear layers of a transformer are timed, too, and the default cut spends the time."""
    torch.manual_seed(0)
    layers = [nn.Linear(64, 512), nn.GELU(), nn.Linear(512, 64), nn.LayerNorm(64), nn.Linear(64, 512), nn.GELU()]
    model = nn.Sequential(*layers, nn.Linear(512, 64)).eval()
    result = snp.prune(model, [torch.randn(8, 32, 64)], target_latency=0.8)
    # The slowest network within the budget that was timed; a busy machine leaves few.
    assert 0.5 <= result.plan.latency["predicted_share"] <= 0.81


class Functional(nn.Module):
    """Linear layers that nobody calls: their weights are read."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 512), nn.Linear(512, 64)

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.gelu(nn.functional.linear(x, self.up.weight, self.up.bias))
        return nn.functional.linear(hidden, self.down.weight, self.down.bias)


def test_a_network_without_a_layer_that_can_be_timed_alone_takes_a_budget() -> None:
    """All of its time is then what goes with outputs, and the clock has the last word."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"trials": False, "latency_batch": 64, "progress": False}
    result = snp.prune(Functional().eval(), [torch.randn(64, 32, 64)], target_latency=0.8, **options)
    assert result.plan.macs["pruned"] < result.plan.macs["dense"]
    assert 0 < result.plan.latency["predicted_share"] <= 0.81


@pytest.mark.parametrize(("dense", "cut", "activations"), [(10.0, 6.0, 0.5), (10.0, 2.0, 0.5), (10.0, 10.0, 1.0)])
def test_time_that_no_layer_explains_is_that_of_outputs(dense: float, cut: float, activations: float) -> None:
    """The dense pass is met always, and the cut one where outputs can explain it."""
    scale, of_activations, constant = calibrated(dense, cut, 0.0, 0.0, activations)
    assert min(scale, of_activations, constant) >= 0
    assert of_activations + constant == pytest.approx(dense)
    if (dense, cut) == (10.0, 6.0):
        assert activations * of_activations + constant == pytest.approx(cut)


def test_latency_budget_out_of_reach() -> None:
    """The message says what the smallest network takes."""
    with pytest.raises(ValueError, match=r"target_latency=0\.0001 cannot be (reached|met)"):
        snp.prune(wide(), [torch.randn(8, 3, 24, 24)], target_latency=0.0001, ordering="variance", cut="uniform")


@pytest.mark.rehearsal
def test_latency_of_a_run(tmp_path: Path) -> None:
    """Metrics, plan and page hold predicted and measured shares; a second run uses the layer times of the first.

    The network is so small that no cut makes it clearly faster, so all of its time is asked for.
    """
    options = ("prune.target_latency=1.0", "prune.cut=uniform", "prune.ordering=variance", "finetune.epochs=0")
    first = run_here(*options, folder=tmp_path)
    assert first.status == 0, first.stderr
    folder = tmp_path / "run"
    metrics, plan = (json.loads((folder / name).read_text()) for name in ("metrics.json", "plan.json"))
    assert metrics["latency/predicted_share"] == 1.0
    assert metrics["latency/measured_share"] == plan["latency"]["measured_share"]
    # Passes in turns are the only times: a network timed by itself said something else about the same run.
    assert [name for name in metrics if "latency_" in name and name.startswith(("dense", "pruned"))] == []
    page = (folder / "report.md").read_text()
    assert "Throughput" in page
    assert f"the plan predicted {100 * metrics['latency/predicted_share']:.1f} %" in page
    assert LatencyTable.from_json(json.loads(next(folder.glob("latency-*.json")).read_text())["table"]).batch == 8


def test_layer_times_are_taken_over(tmp_path: Path) -> None:
    """A second look at the same network measures nothing; other batches, or a damaged file, are measured anew."""
    subject = subject_of(wide(), torch.randn(2, 3, 24, 24), PruneSettings())
    cache, table, asked = Cache(tmp_path, Digits(), {}, 0, "32-true"), square_root_table(subject), []

    def measure() -> LatencyTable:
        asked.append(1)
        return table

    for batch, number in ((4, 1), (4, 1), (8, 2), (8, 2)):
        found = cache.latency(subject, Conditions(batch, 1), measure)
        assert found.to_json() == table.to_json()
        assert len(asked) == number
    for path in tmp_path.glob("latency-*.json"):
        path.write_text("{")
    cache.latency(subject, Conditions(8, 1), measure)
    assert len(asked) == 3
