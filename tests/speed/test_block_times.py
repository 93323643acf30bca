"""Does a budget of time know what goes with a whole block, and is it met with blocks that go?"""

from typing import Any

import pytest
import torch
from torch import nn

import snp
from snp.core.budget import Target
from snp.graph.batches import Batch
from snp.plan.costs import CostModel
from snp.plan.latency_table import LatencyTable, LayerTimes
from snp.plan.plan import GroupPlan, PruningPlan
from snp.settings import PruneSettings
from snp.speed.block_times import blocks_alike, with_block_times
from snp.speed.layer_times import measure_table, measured_share
from snp.speed.passes import Conditions
from snp.surgery.subject import Subject, subject_of
from snp.surgery.surgery import cut
from tests.residual_networks import Attending, Basic, chain, vectors

ASKED: Any = {"structures": ("ffn", "blocks"), "target_latency": 0.6, "latency_batch": 16, "progress": False}


def asked(kind: type[nn.Module], num_blocks: int = 4) -> Subject:
    """A chain whose blocks may go, on a budget of time."""
    settings = PruneSettings(structures=("ffn", "blocks"), target_latency=0.6)
    return subject_of(chain(kind, num_blocks), vectors(kind, 2), settings)


def table_of(subject: Subject, of_blocks: float) -> LatencyTable:
    """A machine on which every layer takes 1 ms, outputs 2 ms, the rest 6 ms, and a block so many ms with all of it."""
    costs = subject.costs
    sizes = costs.sizes(costs.dense, costs.resized_weights)
    times = {name: LayerTimes((rows,), (columns,), ((1.0,),)) for name, (rows, columns) in sizes.items()}
    dense = len(times) + 2.0 + 6.0
    (kind,) = blocks_alike(subject)
    measured = {"dense": dense, "half": 0.6 * dense, kind.name: dense - of_blocks * len(kind.gone)}
    return LatencyTable(times, 1.0, 2.0, 6.0, 16, 1, "none", measured)


@pytest.mark.parametrize("kind", [Basic, Attending])
def test_networks_without_blocks_take_what_the_clock_said(kind: type[nn.Module]) -> None:
    """Of the same four blocks, whichever of them go; all that a budget counts is of the whole network."""
    subject = asked(kind)
    rest = subject.costs.without(subject.removable[:1])
    by_layers = len(subject.costs.resized_weights) - len(rest.resized_weights)
    of_blocks = by_layers + 1.7
    raw = CostModel(subject.model, subject.graph, subject.groups, table_of(subject, of_blocks))
    known = CostModel(subject.model, subject.graph, subject.groups, with_block_times(raw, blocks_alike(subject)))
    dense = known.latency(known.dense)
    assert dense == pytest.approx(raw.latency(raw.dense)) == pytest.approx(known.table.measured["dense"])
    target = Target("latency", 0.5)
    for blocks in (subject.removable[:1], subject.removable[1:], subject.removable[::2]):
        left = known.without(blocks)
        assert dense - left.latency(left.dense) == pytest.approx(of_blocks * len(blocks))
        assert left.share_of(target)(left.dense) == pytest.approx(1 - of_blocks * len(blocks) / dense)
        assert all(block.name not in left.table.blocks for block in blocks)
    # What goes with blocks is no overhead.
    assert raw.table.overhead_share == pytest.approx(6 / dense)
    constant = sum(known.table.blocks.values())
    assert 0 < constant <= 6
    assert known.table.overhead_share == pytest.approx((6 - constant) / dense)


@pytest.mark.parametrize("of_blocks", [-1.0, 0.1, 100.0])
def test_a_clock_that_says_too_little_or_too_much_is_held_to_what_is_constant(of_blocks: float) -> None:
    subject = asked(Basic)
    raw = CostModel(subject.model, subject.graph, subject.groups, table_of(subject, of_blocks))
    table = with_block_times(raw, blocks_alike(subject))
    assert set(table.blocks) == {block.name for block in subject.removable}
    assert min(table.blocks.values()) >= 0
    assert sum(table.blocks.values()) == pytest.approx(6.0 if of_blocks == 100 else 0.0)


@pytest.mark.parametrize(
    ("options", "structures"),
    [
        ({"target_latency": 0.6}, ("ffn", "blocks")),
        ({"target_latency": 0.6, "structures": ("ffn",)}, ("ffn",)),
        ({"target_macs": 0.6}, ("ffn",)),
        ({}, ("ffn",)),
        # Whatever blocks cannot be weighed by.
        ({"target_latency": 0.6, "preset": "quick"}, ("ffn",)),
        ({"target_latency": 0.6, "calibration": "joint"}, ("ffn",)),
        ({"target_latency": 0.6, "trials": False}, ("ffn",)),
        ({"target_latency": 0.6, "reconstruct": False}, ("ffn",)),
        ({"target_latency": 0.6, "cut": "uniform"}, ("ffn",)),
        ({"target_latency": 0.6, "streams": True}, ("ffn",)),
    ],
    ids=str,
)
def test_auto_takes_blocks_on_a_budget_of_time(options: dict[str, Any], structures: tuple[str, ...]) -> None:
    """The plan says what was decided."""
    settings = PruneSettings(**options)
    assert settings.cut_structures == structures
    assert settings.to_json()["structures"] == list(structures)


def test_auto_weighs_blocks_where_there_are_samples() -> None:
    """A worthless block goes; few samples say too little of whole allocations, and units alone are cut."""
    model = chain(Basic, 4)
    for name in ("last.weight", "last.bias"):
        model.get_parameter(f"blocks.2.{name}").data.zero_()
    options: Any = {"target_latency": 0.8, "latency_batch": 16, "progress": False}
    result = snp.prune(model, vectors(Basic, 160).split(40), **options)
    assert "blocks.2" in [block.name for block in result.plan.removed_blocks]
    # Norms and sums are most of this network's time, and narrower layers save nothing of it.
    with pytest.raises(ValueError, match=r"=0\.8 cannot be (reached|met).*, or give 128 calibration samples or more"):
        snp.prune(model, [vectors(Basic, 96)], **options)
    with pytest.raises(
        ValueError, match=r"or give 128 calibration samples or more.*\(80 of those given repeat others\)"
    ):
        snp.prune(model, [vectors(Basic, 80)] * 2, **options)
    with pytest.raises(ValueError, match=r"128 calibration samples or more; found 96: give more, or leave blocks out"):
        snp.prune(model, [vectors(Basic, 96)], structures=("ffn", "blocks"), **options)


def test_blocks_are_known_again_from_the_file() -> None:
    subject = asked(Basic)
    raw = CostModel(subject.model, subject.graph, subject.groups, table_of(subject, 5.0))
    table = with_block_times(raw, blocks_alike(subject))
    assert LatencyTable.from_json(table.to_json()) == table


def test_blocks_of_other_sizes_are_timed_apart() -> None:
    """Alike are the same modules on maps of the same size, and nothing else."""
    model = nn.Sequential(*chain(Basic, 2).blocks, nn.AvgPool2d(2), *chain(Basic, 1).blocks, nn.Flatten()).eval()
    settings = PruneSettings(structures=("ffn", "blocks"), target_latency=0.6)
    kinds = blocks_alike(subject_of(model, torch.rand(2, 8, 6, 6), settings))
    assert [[block.name for block in kind.blocks] for kind in kinds] == [["0", "1"], ["3"]]
    assert [[block.name for block in kind.gone] for kind in kinds] == [["1"], ["3"]]


def test_predictions_are_near_the_clock() -> None:
    """Most of these blocks' time is in norms and sums, of which layers timed alone know nothing."""
    subject = asked(Basic)
    example, conditions = Batch.of(vectors(Basic, 16)), Conditions(16, 1)
    table = measure_table(subject, example, conditions)
    costs = CostModel(subject.model, subject.graph, subject.groups, table)
    gone = subject.removable[1:3]
    left = costs.without(gone)
    plans = [
        GroupPlan(group, torch.arange(group.num_units)) for group in subject.groups if not _inside(group.name, gone)
    ]
    small = cut(subject.model, PruningPlan(tuple(plans), removed_blocks=gone))
    found = measured_share(subject.model, small, example, conditions)["own_share"]
    assert left.latency(left.dense) / costs.latency(costs.dense) == pytest.approx(found, abs=0.1)


def _inside(name: str, blocks: Any) -> bool:
    return any(name.startswith(f"{block.name}.") for block in blocks)


@pytest.mark.parametrize(
    ("kind", "writers"),
    [
        (Basic, ("last.weight", "last.bias")),
        (Attending, ("out.weight", "out.bias", "down.weight", "down.bias")),
    ],
)
def test_a_budget_of_time_takes_worthless_blocks(kind: type[nn.Module], writers: tuple[str, ...]) -> None:
    """Two of six blocks add nothing: they go, although the network is faster without them than it has to be."""
    model, inputs = chain(kind, 6), vectors(kind, 160)
    for number in (1, 4):
        for name in writers:
            model.get_parameter(f"blocks.{number}.{name}").data.zero_()
    result = snp.prune(model, inputs.split(40), **{**ASKED, "target_latency": 0.75})
    assert {"blocks.1", "blocks.4"} <= {block.name for block in result.plan.removed_blocks}
    assert result.plan.latency["predicted_share"] <= 0.76
    assert result.plan.latency["own_share"] == pytest.approx(result.plan.latency["predicted_share"], abs=0.12)
    again = PruningPlan.from_json(result.plan.to_json())
    assert again.latency == result.plan.latency
    assert [block.name for block in again.removed_blocks] == [block.name for block in result.plan.removed_blocks]
