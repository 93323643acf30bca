"""Are dimensions that rotary embeddings turn cut in pairs where that is exact, and left whole where it is not?"""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snp
from snp.core.bases import affine_second_moment
from snp.core.gram import Moments
from snp.fit.head_bases import in_head_bases
from snp.graph import analyse
from snp.graph.batches import Batch
from snp.graph.rotary import SHARED
from snp.measure.moments import MomentCollector
from snp.models import huggingface
from snp.settings import PruneSettings
from snp.surgery.attention_separate import SeparateAttention
from snp.surgery.subject import Subject, subject_of
from snp.surgery.trial_cuts import confirm
from tests.attention_networks import assert_cut_is_right_and_counted, irregular
from tests.audit import audit, outputs, randomise
from tests.transformer_models import GATED, token_batches

STRUCTURES = ("ffn", "vo", "qk")


def language_model(model_type: str = "llama", **sizes: Any) -> nn.Module:
    """Heads of eight dimensions, two of keys and values unless the sizes say otherwise."""
    torch.manual_seed(0)
    config = {**GATED, "model_type": model_type, "head_dim": 8, "num_hidden_layers": 1, **sizes}
    return randomise(huggingface.build(config=config, auto_class=huggingface.CAUSAL))


FAMILIES: list[Any] = [
    ("llama", {}),
    ("llama", {"num_key_value_heads": 1}),  # nothing is broadcast over heads
    ("llama", {"num_key_value_heads": 4, "attention_bias": True}),
    ("gemma2", {}),
    pytest.param("mistral", {"sliding_window": None}, marks=pytest.mark.slow),
    pytest.param("qwen2", {"hidden_size": 32}, marks=pytest.mark.slow),
    pytest.param("mixtral", {"num_local_experts": 2}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("model_type", "sizes"), FAMILIES)
def test_pairs_are_cut_as_the_mask_says(model_type: str, sizes: dict[str, Any]) -> None:
    """Every head of keys keeps pairs of its own, with the queries that meet it; costs are as counted."""
    model, batch = language_model(model_type, **sizes), token_batches(2)[0]
    graph = analyse(model, batch, STRUCTURES)
    groups, refused = confirm(model, graph.groups, Batch.of(batch), graph.attention)
    assert not refused
    (group,) = (group for group in groups if group.kind == "qk")
    shared = sizes.get("num_key_value_heads", 2)
    assert (group.num_partitions, group.units_per_partition) == (shared, 4)
    key = next(member for member in group.producers if "k_proj" in member.tensor)
    assert torch.equal(key.index[:, 1], key.index[:, 0] + 4)
    for seed in range(2):
        plan = irregular(graph, groups, seed)
        _, small = assert_cut_is_right_and_counted(model, graph, groups, plan, batch)
        # Keys that are kept for later have their own dimensions, too.
        other: Any = small
        settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
        prompt = batch[:2, :6]
        with_cache, without = (
            other.generate(prompt, attention_mask=torch.ones_like(prompt), use_cache=use_cache, **settings)
            for use_cache in (True, False)
        )
        assert torch.equal(with_cache, without)


def test_pruned_twice_saved_and_refused_by_the_stock_form(tmp_path: Path) -> None:
    """Pairs are picked among those that were left; the plan is enough to pick them again; no configuration says it."""
    model, batches = language_model(), token_batches()
    once = snp.prune(model, batches, structures=("qk",), target_units=0.75, calibration="joint")
    twice = snp.prune(once.model, batches, structures=("qk", "vo"), target_units=0.5, calibration="joint")
    first, second = (
        next(module for module in result.model.modules() if isinstance(module, SeparateAttention))
        for result in (once, twice)
    )
    assert first.places is not None
    assert second.places is not None
    assert (first.places.shape, second.places.shape) == ((2, 6), (2, 4))
    for before, after in zip(first.places.tolist(), second.places.tolist(), strict=True):
        assert set(after) < set(before)
        assert after[2:] == [place + 4 for place in after[:2]]
    assert second.query_size == second.value_size  # of the size that a stock module could have
    with pytest.raises(ValueError, match=r"snp\.save and snp\.load"):
        huggingface.save_pretrained(twice.model, tmp_path / "stock")
    snp.save(once, tmp_path)
    assert torch.equal(outputs(snp.load(tmp_path, model), batches[0]), outputs(once.model, batches[0]))


def test_values_are_turned_into_their_bases_where_queries_cannot_be() -> None:
    """Rotary embeddings do not bear other bases of queries; those of values need not wait for them."""
    subject, moments = measured()
    found = in_head_bases(subject, moments, {}, rotate=True)
    changed = {
        name
        for name, value in found.subject.model.state_dict().items()
        if not torch.equal(value, subject.model.state_dict()[name])
    }
    assert changed == {f"model.layers.0.self_attn.{name}_proj.weight" for name in ("v", "o")}


def test_pairs_hold_what_their_products_are_on_average_over_angles() -> None:
    """By brute force: the mean square of q^T R k over queries, keys and a grid of angles."""
    subject, moments = measured()
    (layer,) = subject.graph.attention
    logits = in_head_bases(subject, moments, {}, rotate=False).logits
    (group,) = (group for group in subject.groups if group.kind == "qk")
    energy = logits[group.name].energy
    assert energy.shape == logits[group.name].weight.shape == (group.num_units,)
    query, key = (
        affine_second_moment(
            subject.model.get_parameter(rows.tensor).detach().double(),
            torch.zeros(len(subject.model.get_parameter(rows.tensor)), dtype=torch.float64),
            moments[rows.tensor].second / moments[rows.tensor].count,
            moments[rows.tensor].mean(),
        )
        for rows in (layer.query, layer.key)
    )
    of_key = next(member for member in group.producers if member.tensor == layer.key.tensor)
    for unit, keys in enumerate(of_key.index):
        wanted = torch.zeros((), dtype=torch.float64)
        for head in range(len(layer.key.index)):
            if int(keys[0]) in layer.key.index[head].tolist():
                queries = layer.query.index[head][(layer.key.index[head][:, None] == keys).any(1)]
                for angle in torch.arange(8, dtype=torch.float64) * torch.pi / 4:
                    turn = torch.stack(
                        [torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])]
                    )
                    inner = query[queries][:, queries] @ turn @ key[keys][:, keys] @ turn.T
                    wanted = wanted + inner.trace() / 8
        torch.testing.assert_close(energy[unit], wanted)


def measured() -> tuple[Subject, dict[str, Moments]]:
    """A network with queries, keys and values to cut, and moments of a few texts."""
    model = language_model()
    subject = subject_of(model, token_batches(2)[0], PruneSettings(structures=STRUCTURES, largest_token=None))
    with torch.no_grad(), MomentCollector(model, subject.readers) as collector:
        for batch in token_batches():
            model(batch)
    return subject, collector.moments


class Turning(nn.Module):
    """Attention of our own with rotary embeddings, put to some use where that is wrong to cut: [N, 7, 16]."""

    def __init__(self, use: str) -> None:
        super().__init__()
        self.use = use
        self.enter = nn.Linear(16, 16)
        self.query, self.key, self.value = nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(16, 24)
        self.hidden, self.out, self.head = nn.Linear(16, 6), nn.Linear(24, 16), nn.Linear(16, 5)
        self.further, self.gate = nn.Linear(6, 16), nn.Linear(6, 16)
        self.register_buffer("frequencies", torch.tensor([1.0, 0.3, 0.1]))

    def turned(self, heads: Tensor) -> Tensor:
        angles = torch.arange(heads.shape[-2], dtype=heads.dtype)[:, None] * self.frequencies
        cos, sin = (torch.cat([table, table], dim=-1) for table in (angles.cos(), angles.sin()))
        first, second = heads.chunk(2, dim=-1)
        return heads * cos + torch.cat([-second, first], dim=-1) * sin

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.enter(tokens)
        query, key, value = (
            layer(x).unflatten(-1, (4, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        query, key = self.turned(query), self.turned(key)
        if self.use == "values":
            value = self.turned(value)
        mixed = self.out(F.scaled_dot_product_attention(query, key, value, scale=0.4).transpose(1, 2).flatten(2))
        if self.use == "queries twice":
            mixed = mixed + self.gate(query[:, 0])
        if self.use == "hidden units":
            mixed = mixed + self.further(self.turned(self.hidden(x)))
        return self.head(x + mixed)


@pytest.mark.parametrize("use", ["attention", "values", "queries twice", "hidden units"])
def test_what_meets_the_same_table_elsewhere_stays_whole(use: str) -> None:
    """A module that picks no entries keeps its pairs; values and hidden units that are turned are never cut."""
    torch.manual_seed(0)
    model, batch = randomise(Turning(use)), torch.randn(2, 7, 16)
    graph = analyse(model, batch, STRUCTURES)
    for group in graph.groups:
        if not group.is_multiplied:
            assert audit(model, [group], batch) < 1e-5, group.name
    tensors = {member.tensor for group in graph.groups for member in group.producers}
    forbidden = {
        "attention": set(),
        "values": {"value.weight"},
        "queries twice": {"query.weight", "key.weight"},
        "hidden units": {"hidden.weight"},
    }[use]
    assert tensors.isdisjoint(forbidden)
    assert all(graph.frozen[name] for name in forbidden)
    if use in ("values", "hidden units"):
        assert {graph.frozen[name] for name in forbidden} == {SHARED}
    groups, refused = confirm(model, graph.groups, Batch.of(batch), graph.attention)
    assert not [group for group in groups if group.kind == "qk"]
    assert [group.kind for group in groups].count("vo") == (use != "values")
    assert set(refused) == (set() if use == "queries twice" else {"query:qk"})
    assert all("same tables in every head" in reason for reason in refused.values())


def test_tables_change_nothing_where_queries_are_not_asked_for() -> None:
    """Hidden units times sines of a buffer, entry by entry, are cut with it, and stay whole only beside queries."""

    class Modulated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 3)
            self.register_buffer("phases", torch.linspace(0, 1, 8))

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x) * self.phases.cos())

    model, batch = randomise(Modulated()), torch.randn(2, 4)
    (group,) = analyse(model, batch).groups
    assert [member.tensor for member in group.others] == ["one.bias", "phases"]
    assert audit(model, [group], batch) < 1e-6
    assert analyse(model, batch, STRUCTURES).frozen["one.weight"] == SHARED
