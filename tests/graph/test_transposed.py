"""Are transposed convolutions cut on both sides, grouped, strided or depthwise, and fitted by their inputs?"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snp
from snp.graph.batches import Batch
from snp.graph.counting import macs_of_batch
from snp.graph.grouped_kernels import rows_of, weight_of
from snp.plan import planners
from snp.plan.costs import CostModel
from snp.surgery.checks import self_check
from snp.surgery.surgery import cut, masked_weights, with_weights
from tests.graphs import IMAGES, Net, analysed, conv, even_plan, owned

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "strided": {"stride": 2, "padding": 1},
    "output padding": {"stride": 2, "padding": 1, "output_padding": 1},
    "dilated": {"dilation": 2},
    "two groups": {"groups": 2, "stride": 2},
    "four groups": {"groups": 4, "output_padding": 1, "stride": 3},
    "no bias": {"bias": False},
}


def between(dims: int = 2, inputs: int = 8, outputs: int = 12, **options: Any) -> Net:
    """A transposed convolution between a convolution and another transposed one."""
    first, up = (getattr(nn, f"{kind}{dims}d") for kind in ("Conv", "ConvTranspose"))
    return Net(
        lambda m, x: m.head(F.gelu(m.last(F.gelu(m.up(F.gelu(m.first(x)))))).flatten(2).mean(2)),
        first=first(3, inputs, 3), up=up(inputs, outputs, 3, **options), last=up(outputs, 6, 2), head=nn.Linear(6, 4),
    )  # fmt: skip


def batch(dims: int) -> Tensor:
    return torch.randn(2, 3, *[6] * dims, generator=torch.Generator().manual_seed(0))


def check_any_cut(model: nn.Module, inputs: Tensor) -> None:
    """Several random cuts of all groups at once: small equals masked, and costs are those of the small network."""
    graph, example = analysed(model, inputs), Batch.of(inputs)
    costs = CostModel(model, graph, graph.groups)
    assert costs.macs(costs.dense) == macs_of_batch(model, example)
    for seed in range(4):
        plan = even_plan(graph.groups, seed)
        masked = with_weights(model, masked_weights(model, plan))
        small = cut(masked, plan)
        assert self_check(masked, small, example) < 1e-4
        kept = [len(decision.kept) for decision in plan.groups]
        assert costs.macs(kept) == macs_of_batch(small, example)
        assert costs.params(kept) == sum(parameter.numel() for parameter in small.parameters())


@pytest.mark.parametrize("name", SHAPES)
def test_cut_on_both_sides(name: str) -> None:
    """Rows are its inputs, columns its outputs."""
    model = between(**SHAPES[name])
    check_any_cut(model, batch(2))
    graph = analysed(model, batch(2))
    groups, parts = {group.name: group for group in graph.groups}, SHAPES[name].get("groups", 1)
    assert {group.num_partitions for name, group in groups.items() if name != "last"} == {parts}
    assert owned(groups["first"])["consumers"] == {("up.weight", 0, 1)}
    assert owned(groups["up"])["producers"] == {("up.weight", 1, 1)}
    assert owned(groups["up"])["consumers"] == {("last.weight", 0, 1)}


@pytest.mark.parametrize("dims", [1, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_in_one_and_three_dimensions(dims: int, groups: int) -> None:
    """The rule does not look at how many dimensions space has."""
    check_any_cut(between(dims, stride=2, groups=groups), batch(dims))


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_passes_units_on(multiplier: int) -> None:
    """A learned upsampling channel by channel has no units of its own."""
    model = between(outputs=8 * multiplier, groups=8, stride=2)
    check_any_cut(model, batch(2))
    first, last = analysed(model, batch(2)).groups
    assert (first.name, first.num_units, last.name) == ("first", 8, "last")
    assert owned(first)["consumers"] == {("last.weight", 0, multiplier)}


def test_rows_that_become_a_map() -> None:
    """A linear layer, its outputs as a map, and two steps up, as in decoders and generators."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = F.relu(m.first(x)).view(-1, m.up.in_channels, 2, 2)
        return m.last(F.relu(m.norm(m.up(x))))

    model = Net(
        forward, first=nn.Linear(6, 32), up=nn.ConvTranspose2d(8, 6, 4, 2, 1), norm=nn.BatchNorm2d(6), last=conv(6, 3)
    )
    check_any_cut(model, torch.randn(2, 6))
    assert [(group.num_units, group.producers[0].width) for group in analysed(model, torch.randn(2, 6)).groups] == [
        (8, 4),
        (6, 1),
    ]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_layout(groups: int) -> None:
    """Rows and columns exchanged, the kernel turned round and the groups kept, a convolution computes the same."""
    weight, x = torch.randn(8, 12 // groups, 3, dtype=torch.double), torch.randn(2, 8, 7, dtype=torch.double)
    rows = rows_of(weight, 0, groups)
    assert rows.shape == (12, 8 // groups, 3)
    expected = F.conv_transpose1d(x, weight, groups=groups)
    torch.testing.assert_close(F.conv1d(F.pad(x, (2, 2)), rows.flip(2), groups=groups), expected)
    assert torch.equal(weight_of(rows, 0, groups), weight)


@pytest.mark.parametrize("calibration", ["joint", "sequential"])
@pytest.mark.parametrize("groups", [1, 2])
def test_copies_are_folded_into_what_stays(calibration: str, groups: int) -> None:
    """With every unit there twice half of them go, and the network computes what it did."""
    model = between(groups=groups, stride=2)
    graph = analysed(model, IMAGES)
    tensors = dict(model.named_parameters())
    with torch.no_grad():
        for group in graph.groups:
            size = group.units_per_partition // 2
            for part in range(group.num_partitions):
                start = part * 2 * size
                for member in group.producers + group.others:
                    tensor, step = tensors[member.tensor], member.num_blocks
                    index = member.index[:, 0] - part * (member.index.numel() // step if step > 1 else 0)
                    rows = tensor.chunk(step)[part] if step > 1 else tensor
                    source, target = index[start : start + size], index[start + size : start + 2 * size]
                    rows.index_copy_(member.dim, target, rows.index_select(member.dim, source))
    options = {"target_units": 0.5, "cut": "uniform", "ordering": "pivoted", "ridge": 1e-9}
    inputs = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    result = snp.prune(model, [inputs], calibration=calibration, **options)
    assert [len(decision.kept) for decision in result.plan.groups] == [4, 6, 3]
    with torch.no_grad():
        wanted, found = model(inputs), result.model.eval()(inputs)
    assert float((wanted - found).abs().max() / wanted.std()) < 1e-3


@pytest.mark.parametrize("planner", planners.names())
def test_every_planner_reads_weights_the_right_way_round(planner: str) -> None:
    """Scores look at weights of either layout, block by block: units that do nothing are the first to go."""
    model = between(groups=2, stride=2)
    graph = analysed(model, batch(2))
    with torch.no_grad():
        model.first.weight[[1, 5]], model.first.bias[[1, 5]] = 0.0, 0.0  # one unit of each half
        model.up.weight[[1, 5]] = 0.0
    inputs = torch.randn(32, 3, 6, 6, generator=torch.Generator().manual_seed(4))
    result = snp.prune(model, [inputs], target_units=0.75, planner=planner, calibration="joint", round_to=1)
    (first,) = (decision for decision in result.plan.groups if decision.group.name == "first")
    assert graph.groups[0].num_partitions == 2
    assert {1, 5} <= set(first.cut.tolist())
