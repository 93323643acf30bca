"""Are units of attention layers found, complete, cut as the mask says, and counted?"""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import snp
from snp.graph import CouplingGraph, analyse
from snp.graph.batches import Batch
from snp.graph.units import Slice, UnitGroup
from snp.plan.costs import CostModel
from snp.speed.network import macs
from snp.surgery.attention_fused import SplitAttention
from snp.surgery.surgery import cut, masked_weights, with_weights
from snp.surgery.trial_cuts import confirm
from tests.attention_networks import NETWORKS, Grouped, assert_cut_is_right_and_counted, build, irregular
from tests.audit import audit, control, outputs, randomise

ALL = ("ffn", "vo", "qk", "heads")


def kinds(graph: CouplingGraph) -> dict[str, int]:
    found: dict[str, int] = {}
    for group in graph.groups:
        found[group.kind] = found.get(group.kind, 0) + 1
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_every_structure_is_found(name: str) -> None:
    """One group per layer and kind, with heads as partitions; normalised queries keep their dimensions."""
    model, batch = build(name)
    graph = analyse(model, batch, ALL)
    layers = 1 if name.startswith("shared") else 2
    wanted = {"qk": layers, "vo": layers, "heads": layers, "ffn": layers}  # the stream of the smaller ones counts
    if "normalised" in name:
        del wanted["qk"]
    assert kinds(graph) == wanted
    for group in graph.groups:
        if group.kind in ("qk", "vo"):
            assert group.num_partitions == (2 if layers == 1 else 3)
            assert group.units_per_partition == (6 if layers == 1 else 8)
        if group.kind == "heads":
            assert (group.num_units, group.num_partitions) == (2 if layers == 1 else 3, 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_readable_units_pass_the_audit(name: str) -> None:
    """With the output projection's columns zero, rows of values, or of whole heads, may be anything."""
    model, batch = build(name)
    for group in analyse(model, batch, ALL).groups:
        if group.kind in ("vo", "heads"):
            assert audit(model, [group], batch) < 1e-5, group.name
            assert control(model, [group], batch) > 1e-6, group.name


@pytest.mark.parametrize("name", NETWORKS)
def test_dimensions_of_queries_and_keys_pass_the_audit(name: str) -> None:
    """With a dimension's queries zero its keys may be anything, and the other way round; with neither, both matter."""
    model, batch = build(name)
    graph = analyse(model, batch, ("qk",))
    groups = [group for group in graph.groups if group.kind == "qk"]
    assert groups or "normalised" in name
    for group, (layer, swap) in product(groups, [(layer, swap) for layer in graph.attention for swap in (0, 1)]):
        rows = (layer.query, layer.key)
        if rows[0].tensor not in {member.tensor for member in group.producers}:
            continue
        silent, changed = (_as_units(group, model, part) for part in (rows[swap], rows[1 - swap]))
        assert audit(model, [replace(group, producers=changed, consumers=silent, others=())], batch) < 1e-5
        assert control(model, [replace(group, producers=changed, others=())], batch) > 1e-6


def _as_units(group: UnitGroup, model: nn.Module, rows: Slice) -> tuple[Slice, ...]:
    """The weight's and the bias's rows of queries, or of keys, unit by unit."""
    member = next(member for member in group.producers if member.tensor == rows.tensor)
    width = int(torch.isin(member.index, rows.index).sum()) // group.num_units
    index = torch.stack([row[torch.isin(row, rows.index)] for row in member.index]).reshape(-1, width)
    bias = rows.tensor.removesuffix("weight") + "bias"
    names = [rows.tensor] + ([bias] if bias in dict(model.named_parameters()) else [])
    return tuple(Slice(name, 0, index) for name in names)


STRUCTURES = [("vo",), ("qk",), ("heads",), ("vo", "qk"), ALL]


@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("structures", STRUCTURES)
@pytest.mark.parametrize("name", NETWORKS)
def test_cut_is_the_mask_and_costs_are_exact(name: str, structures: tuple[str, ...], equal: bool) -> None:
    """Irregular cuts of all groups at once: same output, MACs as the profiler counts them, parameters as they are."""
    if equal and len({"vo", "qk"} & set(structures)) == 1:
        pytest.skip("equal sizes take both")
    model, batch = build(name)
    graph = analyse(model, batch, structures, equal_sizes=equal)
    groups, refused = confirm(model, graph.groups, Batch.of(batch), graph.attention)
    assert not refused
    for seed in range(3):
        plan = irregular(graph, groups, seed)
        assert_cut_is_right_and_counted(model, graph, groups, plan, batch)
        costs = CostModel(model, graph, groups)
    assert costs.macs(costs.dense) == macs(model, batch[:1])
    for number, group in enumerate(groups):
        fewer = list(costs.dense)
        fewer[number] -= group.num_partitions
        assert costs.macs(fewer) < costs.macs(costs.dense)


@pytest.mark.parametrize("fused", [True, False])
def test_equal_sizes_keep_the_stock_module_whichever_way_it_attends(fused: bool) -> None:
    """The scale stays that of the dense head on both paths of timm's module; other sizes take ours."""
    model, batch = build("vit")
    for equal in (True, False):
        graph = analyse(model, batch, ("vo", "qk"), equal_sizes=equal)
        plan = irregular(graph, graph.groups, seed=1)
        masked = with_weights(model, masked_weights(model, plan))
        small = cut(masked, plan)
        assert any(isinstance(module, SplitAttention) for module in small.modules()) != equal
        for block in small.blocks:
            block.attn.fused_attn = fused
        torch.testing.assert_close(outputs(small, batch), outputs(masked, batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("structures", STRUCTURES)
def test_pruned_network_comes_back_from_disk_and_exports(structures: tuple[str, ...], tmp_path: Path) -> None:
    """Plan and weights rebuild the network from the stock one without pickle; it exports, and can be trained."""
    model, batch = build("vit", 24)
    result = snp.prune(model, [batch], structures=structures, target_units=0.7)
    assert result.plan.macs["pruned"] == macs(result.model, batch[:1])
    snp.save(result, tmp_path)
    loaded = snp.load(tmp_path, build("vit")[0])
    assert torch.equal(outputs(loaded, batch), outputs(result.model.eval(), batch))
    program = torch.export.export(loaded, (batch,)).module()
    torch.testing.assert_close(program(batch), loaded(batch))
    loaded.train()(batch).square().mean().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_pruned_twice() -> None:
    """A network with our module in it is analysed and cut like any other."""
    model, batch = build("vit", 24)
    once = snp.prune(model, [batch], structures=("ffn", "vo"), target_units=0.7)
    twice = snp.prune(once.model, [batch], structures=ALL, target_units=0.7)
    assert twice.plan.macs["dense"] == once.plan.macs["pruned"] > twice.plan.macs["pruned"]
    assert isinstance(twice.model.blocks[0].attn, SplitAttention)


class Channels(nn.Module):
    """Attention between channels: the summed dimension is that of tokens, and no head's."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.out = nn.Linear(16, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = (layer(tokens).transpose(1, 2) for layer in (self.query, self.key, self.value))
        return self.out((query @ key.transpose(1, 2)).softmax(dim=-1).matmul(value).transpose(1, 2)).mean(1)


class Gated(Grouped):
    """Each head multiplies its queries with the same learned numbers: dimensions cannot go head by head."""

    def __init__(self) -> None:
        super().__init__(fused=True)
        self.gains = nn.Parameter(torch.rand(6))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.enter(tokens)
        query = self.query(x).unflatten(-1, (self.num_heads, -1)) * self.gains
        key, value = (layer(x).unflatten(-1, (self.num_kv_heads, -1)) for layer in (self.key, self.value))
        parts = (part.transpose(1, 2) for part in (query, key, value))
        mixed = nn.functional.scaled_dot_product_attention(*parts, enable_gqa=True)
        return self.head(x + self.out(mixed.transpose(1, 2).flatten(2))).mean(1)


def test_what_is_not_a_head_stays_frozen() -> None:
    """Attention between channels has no units, and dimensions with numbers shared between heads have none."""
    tokens = torch.randn(2, 7, 16)
    assert not analyse(Channels().eval(), tokens, ALL).groups
    assert kinds(analyse(Gated().eval(), tokens, ALL)) == {"vo": 1, "heads": 1, "ffn": 1}
    assert {"query.weight", "key.weight"} <= analyse(Gated().eval(), tokens, ("qk",)).frozen.keys()


class Biased(nn.Module):
    """Names as in timm, and a table of positions that timm's module has not: [N, 5, 8]."""

    def __init__(self, with_dropout: bool) -> None:
        super().__init__()
        self.qkv, self.proj, self.num_heads, self.scale = nn.Linear(8, 24), nn.Linear(8, 8), 2, 0.5
        self.table = nn.Parameter(torch.randn(2, 5, 5))
        if with_dropout:
            self.attn_drop = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (p.unflatten(-1, (2, -1)).transpose(1, 2) for p in self.qkv(x).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, self.table, scale=self.scale)
        return x + self.proj(mixed.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("with_dropout", [True, False])
@pytest.mark.parametrize("structures", [("vo", "ffn"), ("qk", "ffn"), ("qk", "vo", "ffn")])
def test_modules_with_tables_of_their_own_are_not_taken_for_timm(
    with_dropout: bool, structures: tuple[str, ...]
) -> None:
    """Another module in their place would forget the table: unequal sizes stay out, the rest goes."""
    model = randomise(
        nn.Sequential(nn.Linear(6, 8), Biased(with_dropout), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))
    )
    result = snp.prune(model, [torch.randn(24, 5, 6)], target_units=0.5, structures=structures)
    assert isinstance(result.model[1], Biased)
    assert any(d.group.name == "2" and len(d.cut) for d in result.plan.groups)


def test_structures_not_asked_for_stay_whole() -> None:
    """Without them in the list the analysis is what it was, and says what would open them."""
    model, batch = build("vit")
    assert set(kinds(analyse(model, batch))) == {"ffn"}
    only = analyse(model, batch, ("qk",))
    assert set(kinds(only)) == {"ffn", "qk"}
    with pytest.raises(ValueError, match=r"nothing .* can be cut"):
        snp.prune(build("shared keys")[0], [build("shared keys")[1]], structures=("ffn",))


@pytest.mark.parametrize("calibration", ["joint", "sequential"])
@pytest.mark.parametrize("structures", [("vo",), ("qk",), ("ffn", "qk", "vo", "heads")])
@pytest.mark.parametrize("name", ["vit", "shared keys"])
def test_with_nothing_cut_every_bit_stays(name: str, structures: tuple[str, ...], calibration: str) -> None:
    """Heads that lose nothing lie in the bases in which they came."""
    model, batch = build(name, 24)
    result = snp.prune(model, [batch], target_units=1.0, structures=structures, calibration=calibration)
    dense, found = model.state_dict(), result.model.state_dict()
    assert dense.keys() == found.keys()
    assert all(torch.equal(dense[key], found[key]) for key in dense)


def test_heads_of_a_layer_that_loses_nothing_stay_as_they_are() -> None:
    """Beside a layer whose heads are cut."""
    model, batch = build("vit", 24)
    pattern = "blocks.1*"
    options = {"structures": ("vo", "qk"), "target_units": 0.5, "calibration": "joint"}
    small = snp.prune(model, [batch], ignore=(pattern,), **options).model.state_dict()
    dense = model.state_dict()
    assert all(torch.equal(dense[key], small[key]) for key in dense if key.startswith("blocks.1"))
    assert dense["blocks.0.attn.qkv.weight"].shape != small["blocks.0.attn.qkv.weight"].shape
