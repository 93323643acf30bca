"""Are grouped convolutions cut evenly, block by block, and is each block fitted from its own columns?"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snp
from snp.graph import analyse
from snp.graph.batches import Batch
from snp.graph.grouped_kernels import contracted, expanded, without_columns
from snp.measure.readers import readers_of
from snp.plan import planners
from snp.plan.costs import CostModel
from snp.speed.network import macs
from snp.surgery.checks import self_check
from snp.surgery.surgery import cut, masked_weights, with_weights
from snp.surgery.trial_cuts import confirm
from tests.audit import randomise
from tests.graphs import Net, analysed, assert_cut_is_right, conv, even_plan, owned
from tests.networks import images


def grouped(groups: int, inputs: int = 12, outputs: int = 24, size: int = 3, **options: Any) -> Net:
    """A grouped convolution between two plain ones."""
    return Net(
        lambda m, x: m.head(m.last(F.relu(m.middle(F.relu(m.first(x))))).mean((2, 3))),
        first=conv(3, inputs), middle=conv(inputs, outputs, size, groups=groups, **options), last=conv(outputs, 8),
        head=nn.Linear(8, 4),
    )  # fmt: skip


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_layout_of_blocks(groups: int) -> None:
    """The block-diagonal kernel computes what the grouped one does, and goes back to it."""
    weight, x = torch.randn(6, 12 // groups, 3, 3), torch.randn(2, 12, 5, 5)
    whole = expanded(weight, groups)
    torch.testing.assert_close(F.conv2d(x, whole), F.conv2d(x, weight, groups=groups), rtol=1e-4, atol=1e-5)
    assert torch.equal(contracted(whole, groups), weight)
    removed = torch.arange(groups) * (12 // groups) + torch.arange(groups)
    kept = [c for c in range(12) if c not in removed.tolist()]
    small = without_columns(weight, removed, groups)
    assert torch.equal(expanded(small, groups), whole[:, kept])
    if groups > 1:
        with pytest.raises(ValueError, match="equally many"):
            without_columns(weight, torch.tensor([0]), groups)


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_both_sides_have_a_partition_per_group(groups: int) -> None:
    """Units that a grouped convolution reads and makes are cut evenly over its groups, and nothing else is bound."""
    model = grouped(groups)
    first, middle, last = analysed(model).groups
    assert (first.num_units, first.num_partitions) == (12, groups)
    assert (middle.num_units, middle.num_partitions) == (24, groups)
    assert last.num_partitions == 1
    assert owned(first)["consumers"] == {("middle.weight", 1, 1)}
    assert first.consumers[0].num_blocks == groups
    assert first.consumers[0].index.flatten().tolist() == list(range(12))
    for seed in range(5):
        plan = even_plan((first, middle, last), seed)
        masked = with_weights(model, masked_weights(model, plan))
        small = cut(masked, plan)
        assert self_check(masked, small, Batch.of(images(2))) < 1e-5
        assert small.middle.groups == groups
        assert small.middle.weight.shape[1] == small.middle.in_channels // groups
        costs = CostModel(model, analyse(model, images(2)), (first, middle, last))
        kept = [len(decision.kept) for decision in plan.groups]
        assert costs.macs(kept) == macs(small, images(1))
        assert costs.params(kept) == sum(parameter.numel() for parameter in small.parameters())


def test_one_channel_per_group_on_one_side_is_frozen() -> None:
    """A group of the convolution that would lose its only channel keeps it."""
    graph = analysed(grouped(12, 12, 24))  # depthwise with a multiplier: one unit owns both rows
    assert (graph.groups[0].name, graph.groups[0].num_units, graph.groups[0].num_partitions) == ("first", 12, 1)
    graph = analysed(grouped(12, 24, 12))
    assert [(group.name, group.num_partitions) for group in graph.groups] == [("first", 12), ("last", 1)]
    assert "each group of middle.weight has one" in graph.frozen["middle.weight"]


def concatenated(one: int, two: int) -> Net:
    """Two convolutions side by side before one of two groups."""
    return Net(
        lambda m, x: m.head(F.relu(m.both(torch.cat([m.one(x), m.two(x)], 1))).mean((2, 3))),
        one=conv(3, one), two=conv(3, two), both=conv(one + two, 8, groups=2), head=nn.Linear(8, 4),
    )  # fmt: skip


def test_groups_that_a_concatenation_shares_unevenly_are_frozen() -> None:
    """Cut alone, neither part leaves the convolution's groups equally wide."""
    graph = analysed(concatenated(4, 8))
    assert [(group.name, group.num_partitions) for group in graph.groups] == [("both", 2)]
    assert "both.weight" in graph.frozen["one.weight"]


def test_parts_that_fill_one_group_each_are_frozen() -> None:
    """Halves of a concatenation that are a group of the convolution each bind one another: frozen, never wrong."""
    assert [group.name for group in analysed(concatenated(6, 6)).groups] == ["both"]


def test_chain_of_two_grouped_convolutions_joins_their_partitions() -> None:
    """Four groups read what two made: units are cut evenly over both."""
    model = Net(
        lambda m, x: m.head(m.last(F.relu(m.two(F.relu(m.one(m.first(x)))))).mean((2, 3))),
        first=conv(3, 8), one=conv(8, 16, groups=2), two=conv(16, 16, groups=4), last=conv(16, 6),
        head=nn.Linear(6, 4),
    )  # fmt: skip
    groups = analysed(model).groups
    assert [(group.name, group.num_partitions) for group in groups] == [
        ("first", 2),
        ("one", 4),
        ("two", 4),
        ("last", 1),
    ]
    for group in groups[:1]:
        assert group.is_even(torch.tensor([0, 1, 4, 5]))
        assert not group.is_even(torch.tensor([0, 1, 2, 5]))


def test_residual_around_a_grouped_convolution() -> None:
    """A stream that a grouped convolution reads and adds to is cut evenly over its groups."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        return m.head((x + m.body(F.relu(x))).mean((2, 3)))

    (stream,) = analysed(Net(forward, stem=conv(3, 12), body=conv(12, 12, groups=3), head=nn.Linear(12, 4))).groups
    assert (stream.is_stream, stream.num_partitions) == (True, 3)


def test_trial_cuts_are_even() -> None:
    """The trial of every prune does not ask for what the convolution cannot do."""
    model = randomise(grouped(4))
    groups, refused = confirm(model, analyse(model, images(2)).groups, Batch.of(images(2)))
    assert not refused
    for group in groups:
        assert group.num_partitions in (1, 4)


def assert_blocks_are_fitted(model: nn.Module, small: nn.Module, batch: Tensor, kept_rows: list[int]) -> None:
    """Each block of the small network's middle layer is least squares on its own inputs only."""
    with torch.no_grad():
        wanted = model.middle(F.relu(model.first(batch))) - model.middle.bias[:, None, None]
        given = F.relu(small.first(batch))
    groups = model.middle.groups
    wanted = wanted[:, kept_rows]
    for block in range(groups):
        inputs = given.chunk(groups, 1)[block]
        target = wanted.chunk(groups, 1)[block].flatten(2).transpose(1, 2).reshape(-1, wanted.shape[1] // groups)
        columns = F.unfold(inputs, 3, padding=1).transpose(1, 2).reshape(len(target), -1).double()
        best = torch.linalg.lstsq(columns, target.double(), driver="gelsd").solution.T
        found = small.middle.weight.chunk(groups)[block].flatten(1).double()
        torch.testing.assert_close(found, best, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("calibration", ["joint", "sequential"])
def test_each_block_is_least_squares_on_its_own_inputs(calibration: str) -> None:
    """Against a plain least-squares solver for every block by itself."""
    model, batch = randomise(grouped(2)), images(64)
    result = snp.prune(
        model, [batch], target_units=0.5, cut="uniform", ordering="variance", calibration=calibration,
        intercept=False, repair=False, rectify=False, refit_all=False, ridge=0.0,
    )  # fmt: skip
    decisions = {decision.group.name: decision for decision in result.plan.groups}
    assert len(decisions["first"].kept) == 6
    assert len(decisions["middle"].kept) == 12
    assert_blocks_are_fitted(model.eval(), result.model.eval(), batch, decisions["middle"].kept.tolist())


@pytest.mark.parametrize("calibration", ["joint", "sequential"])
@pytest.mark.parametrize("conv_gram", ["patch", "channel"])
@pytest.mark.parametrize("planner", ["snp", "magnitude"])
def test_prune_of_a_grouped_network_beats_deletion(calibration: str, conv_gram: str, planner: str) -> None:
    """Save and load included: the fit is closer to the dense network than plain deletion of the same units."""
    model, batch = randomise(grouped(3)), images(64)
    options: dict[str, Any] = {
        "target_macs": 0.5, "planner": planner, "ordering": "variance", "cut": "uniform", "conv_gram": conv_gram,
    }  # fmt: skip
    fitted = snp.prune(model, [batch], calibration=calibration, **options)
    deleted = snp.prune(model, [batch], reconstruct=False, **options)
    with torch.no_grad():
        wanted = model(batch)
        errors = [float((result.model(batch) - wanted).square().mean()) for result in (fitted, deleted)]
    assert errors[0] < 0.5 * errors[1]


def test_small_grouped_network_comes_back_from_disk(tmp_path: Any) -> None:
    """plan.json says how many blocks a weight has."""
    model, batch = randomise(grouped(3)), images(32)
    result = snp.prune(model, [batch], target_macs=0.5, ordering="variance", cut="uniform", calibration="joint")
    snp.save(result, tmp_path)
    loaded = snp.load(tmp_path, model)
    assert loaded.middle.groups == 3
    with torch.no_grad():
        assert torch.equal(loaded(batch), result.model(batch))


def test_wide_grouped_layers_are_measured_by_channel_and_fitted_by_patch() -> None:
    """The Gram of all patches would be too large; a block's is not."""
    model = grouped(4, 24, 24).eval()
    graph = analyse(model, images(2))
    limits = {"largest_patch": 100}
    assert readers_of(model, graph, graph.groups, "patch", **limits)["middle.weight"].patch is None
    reader = readers_of(model, graph, graph.groups, "patch", **limits, by_block=True)["middle.weight"]
    assert reader.patch is not None
    assert reader.num_columns == 24 * 9


def shuffle(groups: int, x: Tensor) -> Tensor:
    count, channels, height, width = x.shape
    return x.reshape(count, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape)


def test_shuffle_between_grouped_convolutions_is_never_wrong() -> None:
    """What the trial does not refuse stays right for any even cut."""
    model = randomise(
        Net(
            lambda m, x: m.head(m.two(shuffle(2, F.relu(m.one(F.relu(m.first(x)))))).mean((2, 3))),
            first=conv(3, 8),
            one=conv(8, 16, groups=2),
            two=conv(16, 8, groups=2),
            head=nn.Linear(8, 4),
        )
    )
    groups, _ = confirm(model, analyse(model, images(2)).groups, Batch.of(images(2)))
    assert {group.name for group in groups} >= {"first", "two"}
    for group in groups:
        if group.num_partitions == 1:
            assert_cut_is_right(model, group, images(2), 0)
    for seed in range(10):
        plan = even_plan(groups, seed)
        masked = with_weights(model, masked_weights(model, plan))
        assert self_check(masked, cut(masked, plan), Batch.of(images(2))) < 1e-5


@pytest.mark.parametrize("planner", planners.names())
def test_every_planner_cuts_grouped_networks(planner: str) -> None:
    """Units in front of a grouped convolution have readers of blocks: each keeps equally many."""
    plan = snp.prune(randomise(grouped(3)), [images(16)], planner=planner, target_units=0.5, calibration="joint").plan
    assert all(decision.group.is_even(decision.kept) for decision in plan.groups)
    assert any(len(decision.cut) for decision in plan.groups)
