"""What do the shapes that architectures are made of do to units?  One small network per shape.

Each is audited, tried, and cut at random where it can be cut, and frozen with the right reason where it cannot.
Convolutions, depthwise layers, gates, concatenations and tied weights: test_graph.py. Grouped convolutions:
test_grouped.py. Weight standardisation: test_plain_weights.py.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d, PatchEmbed
from timm.layers.fast_norm import rms_norm2d
from timm.models.swin_transformer import PatchMerging, window_partition, window_reverse
from torch import Tensor, nn

from snp.graph import CouplingGraph, analyse
from snp.graph.batches import Batch
from snp.graph.units import UnitGroup
from snp.plan.plan import GroupPlan, PruningPlan
from snp.surgery.surgery import cut
from snp.surgery.trial_cuts import confirm
from tests.audit import audit, randomise
from tests.graphs import ROWS, Net, analysed, conv, cut_anyhow, owned


def one(graph: CouplingGraph) -> UnitGroup:
    (group,) = graph.groups
    return group


def between(function: Callable[[Tensor], Tensor], first: nn.Module, last: nn.Module) -> Net:
    """A function between two convolutions, the last one of five channels."""
    return Net(
        lambda m, x: m.head(F.relu(m.last(function(m.first(x)))).mean((2, 3))),
        first=first, last=last, head=nn.Linear(5, 4),
    )  # fmt: skip


def test_pixel_shuffle_makes_one_unit_of_four_rows() -> None:
    """Channels that become the pixels of one channel go together."""
    before, after = cut_anyhow(between(lambda x: F.pixel_shuffle(x, 2), conv(3, 24), conv(6, 5))).groups
    assert (before.num_units, after.num_units) == (6, 5)
    assert before.producers[0].index.tolist() == [list(range(4 * u, 4 * u + 4)) for u in range(6)]
    assert before.consumers[0].index.tolist() == [[u] for u in range(6)]


def test_pixel_unshuffle_makes_four_columns_of_one_unit() -> None:
    """The other way round."""
    before, _ = cut_anyhow(between(lambda x: F.pixel_unshuffle(x, 2), conv(3, 6), conv(24, 5))).groups
    assert before.consumers[0].index.tolist() == [list(range(4 * u, 4 * u + 4)) for u in range(6)]


def test_windows_and_rolls_keep_units_apart() -> None:
    """Shifted windows, as in Swin, move positions only: the stream and the hidden units are as without them."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x).permute(0, 2, 3, 1)  # [2, 8, 8, 10]
        y = window_partition(x.roll((-2, -2), (1, 2)), (4, 4))
        y = m.down(F.gelu(m.up(y)))
        y = window_reverse(y.reshape(-1, 4, 4, x.shape[-1]), (4, 4), 8, 8).roll((2, 2), (1, 2))
        return m.head((x + y).mean((1, 2)))

    model = Net(forward, stem=conv(3, 10), up=nn.Linear(10, 14), down=nn.Linear(14, 10), head=nn.Linear(10, 4))
    stream, hidden = cut_anyhow(model).groups
    assert (stream.num_units, stream.is_stream, hidden.num_units, hidden.is_stream) == (10, True, 14, False)
    assert owned(stream)["consumers"] == {("up.weight", 1, 1), ("head.weight", 1, 1)}


def merging(norm: type[nn.Module]) -> Net:
    model = Net(
        lambda m, x: m.head(F.relu(m.merge(m.first(x).permute(0, 2, 3, 1))).mean((1, 2))),
        first=conv(3, 6), merge=PatchMerging(6, 10, norm_layer=norm), head=nn.Linear(10, 4),
    )  # fmt: skip
    return model


def test_merged_patches_are_four_columns_a_stride_apart() -> None:
    """Four neighbours side by side: a channel owns one column of each quarter."""
    before, after = cut_anyhow(merging(nn.Identity)).groups
    assert before.consumers[0].index.tolist() == [[u, u + 6, u + 12, u + 18] for u in range(6)]
    assert (after.name, after.num_units) == ("merge.reduction", 10)


def test_merged_patches_behind_a_norm_are_frozen() -> None:
    """As in Swin: the units before the norm stay, those behind it can go."""
    graph = cut_anyhow(merging(nn.LayerNorm))
    assert one(graph).name == "merge.reduction"
    assert "normalised together" in graph.frozen["first.weight"]


@pytest.mark.parametrize(("num_groups", "num_units"), [(2, 2), (4, 4), (6, 6), (12, 12)])
def test_group_norm_lets_whole_groups_go(num_groups: int, num_units: int) -> None:
    """Statistics of one group do not depend on another; the module counts the groups that are left."""
    model = Net(
        lambda m, x: m.head(F.relu(m.norm(m.first(x))).mean((2, 3))),
        first=conv(3, 12), norm=nn.GroupNorm(num_groups, 12), head=nn.Linear(12, 4),
    )  # fmt: skip
    group = one(cut_anyhow(model))
    assert group.num_units == num_units
    assert owned(group)["others"] == {(f"{n}", 0, 12 // num_groups) for n in ("first.bias", "norm.weight", "norm.bias")}
    small = cut(model, PruningPlan((GroupPlan(group, torch.tensor([0])),)))
    assert (small.norm.num_groups, small.norm.num_channels) == (1, 12 // num_groups)


def test_group_norm_of_one_group_freezes() -> None:
    """All channels are normalised together."""
    model = Net(
        lambda m, x: m.head(m.norm(m.first(x)).mean((2, 3))),
        first=conv(3, 12), norm=nn.GroupNorm(1, 12), head=nn.Linear(12, 4),
    )  # fmt: skip
    graph = analysed(model)
    assert graph.groups == ()
    assert "normalised together" in graph.frozen["first.weight"]


def test_group_norm_inside_a_residual_stream() -> None:
    """The stream goes by groups of its norm, the units inside the branch one by one."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        x = x + m.down(F.relu(m.up(m.norm(x))))
        return m.head(x.mean((2, 3)))

    model = Net(
        forward, stem=conv(3, 12), norm=nn.GroupNorm(4, 12), up=conv(12, 7), down=conv(7, 12), head=nn.Linear(12, 4)
    )
    stream, inner = cut_anyhow(model).groups
    assert (stream.num_units, stream.is_stream, inner.num_units) == (4, True, 7)


def test_layer_norm_over_channels_freezes_the_stream_only() -> None:
    """A ConvNeXt block: what the norm sees stays, the hidden units behind it go."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        x = x + m.down(F.gelu(m.up(m.norm(m.depth(x)))))
        return m.head(x.mean((2, 3)))

    model = Net(
        forward, stem=conv(3, 8), depth=conv(8, 8, groups=8), norm=LayerNorm2d(8), up=conv(8, 12, 1),
        down=conv(12, 8, 1), head=nn.Linear(8, 4),
    )  # fmt: skip
    graph = cut_anyhow(model)
    assert one(graph).name == "up"
    assert "normalised together" in graph.frozen["stem.weight"]


def test_norm_written_out_freezes_the_stream_only() -> None:
    """RMSNorm over channels by power, mean and root: what it sees stays, the hidden units behind it go."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        x = x + m.down(F.gelu(m.up(rms_norm2d(m.depth(x), [8]))))
        return m.head(x.mean((2, 3)))

    model = Net(
        forward, stem=conv(3, 8), depth=conv(8, 8, groups=8), up=conv(8, 12, 1), down=conv(12, 8, 1),
        head=nn.Linear(8, 4),
    )  # fmt: skip
    graph = cut_anyhow(model)
    assert one(graph).name == "up"
    assert "aten.mean.dim makes one value of many units" in graph.frozen["stem.weight"]


class Tokens(nn.Module):
    """Patches, a class token, positions and a layer scale: the outside of a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = PatchEmbed(8, 4, 3, 10)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, 10)), nn.Parameter(torch.zeros(1, 5, 10))
        self.up, self.down, self.scale = nn.Linear(10, 14), nn.Linear(14, 10), nn.Parameter(torch.zeros(10))
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.position
        x = x + self.scale * self.down(F.gelu(self.up(x)))
        return self.head(x[:, 0])


def test_tokens_positions_and_layer_scale_belong_to_the_stream() -> None:
    """All that a dimension of the stream owns goes with it."""
    stream, hidden = cut_anyhow(Tokens()).groups
    assert owned(stream) == {
        "producers": {("patches.proj.weight", 0, 1), ("down.weight", 0, 1)},
        "consumers": {("up.weight", 1, 1), ("head.weight", 1, 1)},
        "others": {("patches.proj.bias", 0, 1), ("down.bias", 0, 1), ("token", 2, 1), ("position", 2, 1),
                   ("scale", 0, 1)},
    }  # fmt: skip
    assert (hidden.name, hidden.num_units) == ("up", 14)


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_a_chunk_that_go_separate_ways_are_cut_alike(parts: int) -> None:
    """What is left is divided at the right place again: unit u owns the same place of every part."""
    readers: dict[str, nn.Module] = {f"read{n}": nn.Linear(4, 4) for n in range(parts)}

    def forward(m: Net, x: Tensor) -> Tensor:
        return sum(getattr(m, f"read{n}")(part) for n, part in enumerate(m.both(x).chunk(parts, dim=-1)))

    group = one(cut_anyhow(Net(forward, both=nn.Linear(6, 4 * parts), **readers), ROWS))
    assert group.producers[0].index.tolist() == [[u + 4 * n for n in range(parts)] for u in range(4)]
    assert owned(group)["consumers"] == {(f"read{n}.weight", 1, 1) for n in range(parts)}


def test_part_of_a_chunk_beside_a_frozen_one_is_frozen() -> None:
    """Cut alone it would move the place of the division."""

    def forward(m: Net, x: Tensor) -> Tensor:
        first, second = m.both(x).chunk(2, dim=-1)
        return m.one(first.softmax(-1)) + m.other(second)

    model = Net(forward, both=nn.Linear(6, 16), one=nn.Linear(8, 4), other=nn.Linear(8, 4))
    graph = analysed(model, ROWS)
    assert graph.groups == ()
    assert "softmax" in graph.frozen["both.weight"]


def test_channel_shuffle_takes_the_same_places_of_every_group() -> None:
    """The operator shuffles what is left to where its readers expect it."""
    model = Net(
        lambda m, x: m.head(F.channel_shuffle(m.first(x), 2).mean((2, 3))), first=conv(3, 16), head=nn.Linear(16, 4)
    )
    group = one(cut_anyhow(model))
    assert group.producers[0].index.tolist() == [[u, u + 8] for u in range(8)]
    assert group.consumers[0].index.tolist() == [[2 * u, 2 * u + 1] for u in range(8)]


STRUCTURES: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "module shared by two branches": lambda: (
        Net(
            lambda m, x: m.head(F.relu(m.body(m.one(x))) + F.relu(m.body(m.two(x)))),
            one=nn.Linear(6, 8), two=nn.Linear(6, 8), body=nn.Linear(8, 10), head=nn.Linear(10, 4),
        ),
        ROWS,
    ),
    "outputs of two heads": lambda: (
        Net(
            lambda m, x: (m.left(F.relu(m.trunk(x))), [m.right(F.relu(m.trunk(x)))]),
            trunk=nn.Linear(6, 9), left=nn.Linear(9, 4), right=nn.Linear(9, 2),
        ),
        ROWS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STRUCTURES)
def test_shared_modules_and_several_outputs(name: str) -> None:
    """Units that several read go from all of them."""
    groups = cut_anyhow(*STRUCTURES[name]()).groups
    wanted = {
        "module shared by two branches": [("one", 8, 1), ("body", 10, 1)],
        "outputs of two heads": [("trunk", 9, 2)],
    }
    assert [(group.name, group.num_units, len(group.consumers)) for group in groups] == wanted[name]


def test_split_at_sizes_in_the_code_is_refused_with_a_reason() -> None:
    """The trial says what the network's own code does not bear."""

    def forward(m: Net, x: Tensor) -> Tensor:
        first, second = m.both(x).split([6, 10], dim=-1)
        return m.one(first) + m.other(second)

    model = randomise(Net(forward, both=nn.Linear(6, 16), one=nn.Linear(6, 4), other=nn.Linear(10, 4)))
    passed, refused = confirm(model, analyse(model, ROWS).groups, Batch.of(ROWS))
    assert passed == ()
    assert all("trial cut failed: the pruned network does not run" in reason for reason in refused.values())


def selective(m: Any, x: Tensor) -> Tensor:
    """Two branches, weighed against each other channel by channel, by weights made of their sum."""
    branches = torch.stack([m.one(x), m.two(x)], dim=1)
    weights = m.weigh(F.relu(m.squeeze(branches.sum(1).mean((2, 3)))))
    weights = weights.view(len(x), 2, branches.shape[2], 1, 1).softmax(dim=1)
    return (branches * weights).sum(dim=1)


def test_branches_weighed_against_each_other_go_together() -> None:
    """A channel of a selective kernel is one row of each branch, and two of what weighs them."""
    model = Net(
        lambda m, x: m.head(F.relu(selective(m, x)).mean((2, 3))),
        one=conv(3, 8), two=conv(3, 8, 5), squeeze=nn.Linear(8, 6), weigh=nn.Linear(6, 16), head=nn.Linear(8, 4),
    )  # fmt: skip
    graph = cut_anyhow(model)
    channels = next(group for group in graph.groups if group.num_units == 8)
    assert not channels.is_stream
    assert {m.tensor: m.width for m in channels.producers} == {"one.weight": 1, "two.weight": 1, "weigh.weight": 2}
    assert {m.tensor for m in channels.consumers} == {"squeeze.weight", "head.weight"}
    assert {group.num_units for group in graph.groups} == {8, 6}


@pytest.mark.parametrize("reduce", [torch.amax, torch.mean, torch.sum])
def test_stacked_identity_is_a_stream(reduce: Callable[..., Tensor]) -> None:
    """Written as a reduction over a stack, what goes by a layer still goes by it."""
    model = Net(
        lambda m, x: m.head(F.relu(m.last(reduce(torch.stack([y := m.one(x), m.two(F.relu(y))]), dim=0))).mean((2, 3))),
        one=conv(3, 8), two=conv(8, 8), last=conv(8, 6), head=nn.Linear(6, 4),
    )  # fmt: skip
    graph = cut_anyhow(model)
    assert {group.num_units: group.is_stream for group in graph.groups} == {8: True, 6: False}


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x - torch.stack([x, 2 * x], dim=1).sum((1, 2), keepdim=True)[:, 0],
        lambda x: torch.stack([x, x.tanh()], dim=-1).softmax(1).sum(-1),
        lambda x: x.reshape(len(x), 2, 4).mean(2).repeat_interleave(4, dim=1),
    ],
    ids=["all branches and units", "units of stacked branches", "neighbours"],
)
def test_norms_over_stacked_branches_freeze(mix: Callable[[Tensor], Tensor]) -> None:
    """Whatever else is stacked: where units are mixed, none can go."""
    model = Net(lambda m, x: m.head(mix(m.first(x))), first=nn.Linear(6, 8), head=nn.Linear(8, 4))
    assert analysed(model, ROWS).groups == ()


@pytest.mark.parametrize(
    ("read", "is_cut"),
    [(lambda query: query.mean((1, 2)), True), (lambda query: query[:, 0].mean(1), False)],
    ids=["all heads alike", "one head"],
)
def test_queries_that_another_layer_reads(read: Callable[[Tensor], Tensor], is_cut: bool) -> None:
    """Their readers are cut with them; where that is so of some heads only, no mask of the group would be right."""

    def attend(m: Any, x: Tensor) -> Tensor:
        query, key, value = (layer(x).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (m.query, m.key, m.value))
        mixed = F.scaled_dot_product_attention(query, key, value, scale=0.4).transpose(1, 2).flatten(2)
        return m.head(F.relu(m.out(mixed).mean(1) + m.gate(read(query))))

    layers = {"out": nn.Linear(8, 5), "gate": nn.Linear(4, 5), "head": nn.Linear(5, 3)}
    model = randomise(Net(attend, **{name: nn.Linear(6, 8) for name in ("query", "key", "value")}, **layers))
    batch = torch.randn(2, 7, 6)
    graph = analyse(model, batch, ("ffn", "vo", "qk"))
    found = [group for group in graph.groups if "query.weight" in {member.tensor for member in group.producers}]
    assert [group.kind for group in found] == (["qk"] if is_cut else [])
    assert all({member.tensor for member in group.consumers} == {"gate.weight"} for group in found)
    assert "query.weight" in graph.frozen or is_cut
    for group in graph.groups:
        assert group.is_multiplied or audit(model, [group], batch) < 1e-5, group.name
    assert confirm(model, graph.groups, Batch.of(batch), graph.attention)[1] == {}
