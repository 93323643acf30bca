"""Are heads found, and cut right, where one layer makes queries, keys and values, or only a part of them is turned?"""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import snp
from snp.graph import CouplingGraph, analyse
from snp.graph.batches import Batch
from snp.graph.units import Slice, UnitGroup, module_of
from snp.models import huggingface
from snp.surgery.attention_separate import SeparateAttention
from snp.surgery.surgery import cut, masked_weights, with_weights
from snp.surgery.trial_cuts import confirm
from tests.attention_networks import assert_cut_is_right_and_counted, in_place_of_stock, irregular
from tests.audit import audit, control, outputs, randomise
from tests.transformer_models import token_batches

ALL = ("ffn", "vo", "qk", "heads")
SIZES: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
    "max_position_embeddings": 32,
}  # fmt: skip
NAMED = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
HALF_TURNED = {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}}
GPT2 = {"vocab_size": 32, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "n_inner": 24}
FALCON = {"vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_hidden_size": 24}
# Heads of eight dimensions. Name -> configuration; what is dropped in training is not zero by default.
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", **GPT2, "scale_attn_by_inverse_layer_idx": True},
    "gpt_neox": {"model_type": "gpt_neox", **SIZES, **HALF_TURNED, "attention_dropout": 0.1},
    "phi": {"model_type": "phi", **SIZES, **HALF_TURNED, "num_key_value_heads": 2, "attention_dropout": 0.1},
    "phi3": {"model_type": "phi3", **SIZES, **NAMED, "num_key_value_heads": 2, "attention_dropout": 0.1},
    "modernbert": {
        "model_type": "modernbert", **SIZES, **NAMED, "attention_dropout": 0.1, "global_attn_every_n_layers": 2,
        "local_attention": 4,
    },
    "gpt_bigcode": {"model_type": "gpt_bigcode", **GPT2, "multi_query": False},
    "bloom": {
        "model_type": "bloom", "vocab_size": 32, "hidden_size": 32, "n_layer": 2, "n_head": 4, "attention_dropout": 0.1,
        "hidden_dropout": 0.1,
    },
    "falcon": {
        "model_type": "falcon", **FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "hidden_dropout": 0.1,
    },
    "falcon of slopes": {
        "model_type": "falcon", **FALCON, "multi_query": False, "alibi": True, "attention_dropout": 0.1,
        "new_decoder_architecture": False, "parallel_attn": False, "bias": True,
    },
}  # fmt: skip
CAUSAL = [name for name in CONFIGS if name != "modernbert"]
# Name -> units of queries and keys in each head of keys, one entry for pairs that are turned and one for the rest.
DIMENSIONS = {name: [8] for name in CONFIGS} | {
    "gpt_neox": [2, 4], "phi": [2, 4], "phi3": [4], "modernbert": [4], "falcon": [4],
}  # fmt: skip


def transformer(name: str, implementation: str = "sdpa") -> nn.Module:
    torch.manual_seed(0)
    auto_class = huggingface.CAUSAL if name in CAUSAL else "AutoModel"
    model: Any = huggingface.build(config=CONFIGS[name], auto_class=auto_class).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3) if parameter.ndim > 1 else parameter.uniform_(0.5, 1.5)
    if name != "bloom":  # it multiplies by itself
        model.set_attn_implementation(implementation)
    return model


def tokens(count: int = 2, seed: int = 0) -> Tensor:
    return token_batches(count, seed=seed)[0]


@cache
def analysed(name: str, implementation: str = "sdpa") -> tuple[nn.Module, CouplingGraph]:
    model = transformer(name, implementation)
    return model, analyse(model, tokens(), ALL)


def of_rows(group: UnitGroup, rows: Slice) -> tuple[Slice, ...]:
    """What the units own of some rows of a weight, and of the bias beside it."""
    found = []
    for member in group.producers + group.others:
        dim = rows.dim if member.tensor == rows.tensor else 0
        if member.dim == dim and module_of(member.tensor) == module_of(rows.tensor):
            index = member.index[torch.isin(member.index, rows.index)].reshape(len(member.index), -1)
            found.append(replace(member, index=index))
    return tuple(found)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_structure_is_found(name: str) -> None:
    """Dimensions that are turned go in pairs, those behind them one by one, and values and heads as everywhere."""
    _, graph = analysed(name)
    num_keys = 2 if name in ("phi", "phi3", "falcon") else 4
    found = {kind: [group for group in graph.groups if group.kind == kind] for kind in ALL}
    assert [group.units_per_partition for group in found["qk"]] == 2 * DIMENSIONS[name]
    assert [group.units_per_partition for group in found["vo"]] == [8, 8]
    assert {group.num_partitions for group in found["qk"] + found["vo"]} == {num_keys}
    assert [group.num_units for group in found["heads"]] == [num_keys, num_keys]
    refused = confirm(transformer(name), graph.groups, Batch.of(tokens()), graph.attention)[1]
    assert not refused


@pytest.mark.parametrize("name", CONFIGS)
def test_groups_pass_the_audit(name: str) -> None:
    """With the readers' columns zero, or a dimension's queries or keys zero, all else of it may be anything."""
    model, graph = analysed(name)
    for group in graph.groups:
        pairs = [group]
        if group.is_multiplied:
            (layer,) = (layer for layer in graph.attention if layer.query.is_in(group.producers))
            queries, keys = (of_rows(group, rows) for rows in (layer.query, layer.key))
            assert queries
            assert keys
            pairs = [
                replace(group, producers=one, consumers=two, others=())
                for one, two in ((queries, keys), (keys, queries))
            ]
        for pair in pairs:
            assert audit(model, [pair], tokens()) < 1e-5, group.name
            assert control(model, [pair], tokens()) > 1e-7, group.name


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CONFIGS)
def test_cut_is_the_mask_and_costs_are_exact(name: str, implementation: str) -> None:
    """Irregular cuts: as the dense network, scale and all, with zeros; MACs as counted, parameters as they are."""
    model, graph = analysed(name, implementation)
    for kinds in (ALL, ("heads",), ("qk",)):
        groups = tuple(group for group in graph.groups if group.kind in kinds)
        plan = irregular(graph, groups, seed=3)
        masked, small = assert_cut_is_right_and_counted(model, graph, groups, plan, tokens())
        other: Any = small
        if name == "bloom" or name == "falcon of slopes":
            continue  # Falcon adds slopes twice where it multiplies by itself
        other.set_attn_implementation("eager" if implementation == "sdpa" else "sdpa")
        torch.testing.assert_close(outputs(other, tokens()), outputs(masked, tokens()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "structures"), [(name, ALL) for name in CAUSAL] + [("gpt2", ("ffn", "vo"))])
def test_generation_with_and_without_cache_agree(name: str, structures: tuple[str, ...]) -> None:
    """Greedy continuations of padded prompts are the same whether keys and values are kept or computed again."""
    result = snp.prune(transformer(name), token_batches(), structures=structures, target_units=0.5, calibration="joint")
    small: Any = result.model.eval()
    # Where queries and values end up with one size and no table is met, the stock module does it.
    is_ours = any(isinstance(module, SeparateAttention) for module in small.modules())
    assert is_ours or (name in ("gpt2", "gpt_bigcode") and structures == ALL)
    prompt = tokens(3, seed=3)
    mask = torch.ones_like(prompt)
    mask[0, :5] = 0
    settings: dict[str, Any] = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    settings |= {"attention_mask": mask, "output_logits": True, "return_dict_in_generate": True}
    with_cache, without = (small.generate(prompt, use_cache=use_cache, **settings) for use_cache in (True, False))
    assert with_cache.sequences.shape == (3, prompt.shape[1] + 8)
    assert torch.equal(with_cache.sequences, without.sequences)
    torch.testing.assert_close(with_cache.logits, without.logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_padded_positions_are_masked_as_in_the_stock_module(name: str) -> None:
    model, graph = analysed(name)
    plan = irregular(graph, graph.groups, seed=1)
    masked = with_weights(model, masked_weights(model, plan))
    small, words = cut(masked, plan), tokens(seed=4)
    mask = torch.ones_like(words)
    mask[0, :5] = 0
    found, wanted = (next(iter(net(words, attention_mask=mask).values()))[mask.bool()] for net in (small, masked))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_comes_back_from_disk_exports_and_trains(name: str, tmp_path: Path) -> None:
    """Plan and weights are enough, without pickle; torch.export takes our module; every parameter gets gradients."""
    result = snp.prune(transformer(name), token_batches(), structures=ALL, target_units=0.5, calibration="joint")
    snp.save(result, tmp_path)
    again, batch = snp.load(tmp_path, transformer(name)), tokens(seed=5)
    assert torch.equal(outputs(again, batch), outputs(result.model.eval(), batch))
    program = torch.export.export(again, (batch,), strict=False).module()
    torch.testing.assert_close(outputs(program, batch), outputs(again, batch))
    next(iter(again.train()(batch).values())).square().mean().backward()
    assert all(parameter.grad is not None for parameter in again.parameters())


@pytest.mark.parametrize("name", CONFIGS)
def test_without_a_cut_it_is_the_stock_module_in_training_too(name: str) -> None:
    """The same values are dropped under one seed, of scores and of outputs."""
    model, graph = analysed(name)
    ours = in_place_of_stock(model, graph)
    found = []
    for network, trains in ((ours, True), (model, True), (model, False)):
        torch.manual_seed(0)
        with torch.no_grad():
            found.append(next(iter(network.train(trains)(tokens()).values())))
        network.eval()
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[0], found[2], atol=1e-3)


def test_pruned_twice() -> None:
    """A network with our module in it is analysed and cut like any other; places of pairs are of the dense heads."""
    for name in ("gpt2", "gpt_neox"):
        once = snp.prune(transformer(name), token_batches(), structures=ALL, target_units=0.7, calibration="joint")
        twice = snp.prune(once.model, token_batches(), structures=ALL, target_units=0.5, calibration="joint")
        assert twice.plan.macs["dense"] == once.plan.macs["pruned"] > twice.plan.macs["pruned"]


def test_queries_that_are_multiplied_in_another_way_keep_their_sizes() -> None:
    """GPT-2 may be told to multiply in single precision by a function of its own: whole heads go, dimensions stay."""
    config = transformers.AutoConfig.for_model(**CONFIGS["gpt2"], reorder_and_upcast_attn=True)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    result = snp.prune(model, token_batches(), structures=ALL, target_units=0.5, calibration="joint")
    assert {entry.group.kind for entry in result.plan.groups} == {"ffn", "heads"}
    assert any(name.endswith(":vo") for name in result.plan.frozen)


def test_weights_that_are_turned_round_are_cut_and_fitted_as_plain_ones() -> None:
    """GPT-2 with nn.Linear in the place of Conv1D: the same bases, the same units, the same small network."""
    conv1d, plain = transformer("gpt2"), transformer("gpt2")
    for name, layer in list(plain.named_modules()):
        if type(layer).__name__ == "Conv1D":
            linear = nn.Linear(*layer.weight.shape)
            linear.load_state_dict({"weight": layer.weight.T, "bias": layer.bias})
            plain.set_submodule(name, linear)
    assert torch.allclose(outputs(conv1d, tokens()), outputs(plain, tokens()), atol=1e-5)
    found = [
        snp.prune(model.eval(), token_batches(), structures=ALL, target_macs=0.6, calibration="joint")
        for model in (conv1d, plain)
    ]
    one, other = (
        {entry.group.name: (entry.kept.tolist(), entry.group.num_units) for entry in result.plan.groups}
        for result in found
    )
    assert one == other
    assert {entry.group.kind for entry in found[0].plan.groups if len(entry.cut)} >= {"qk", "vo"}
    small, reference = (outputs(result.model.eval(), tokens()) for result in found)
    torch.testing.assert_close(small, reference, rtol=1e-3, atol=1e-3)


def test_normed_queries_keep_their_dimensions_and_go_as_whole_heads() -> None:
    """Qwen3 norms each head of queries and keys: the norm of what is left would be another one."""
    config = {**SIZES, **NAMED, "model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 8}
    torch.manual_seed(0)
    model = huggingface.build(config=config, auto_class=huggingface.CAUSAL).eval()
    graph = analyse(model, tokens(), ALL)
    assert sorted(group.kind for group in graph.groups) == ["ffn", "ffn", "heads", "heads", "vo", "vo"]
    assert not confirm(model, graph.groups, Batch.of(tokens()), graph.attention)[1]
    plan = irregular(graph, graph.groups, seed=2)
    assert_cut_is_right_and_counted(model, graph, graph.groups, plan, tokens())
    assert all("norm" in graph.frozen[f"model.layers.0.self_attn.{name}_proj.weight"] for name in ("q", "k"))


@pytest.mark.parametrize("name", ["falcon", "gpt_bigcode"])
def test_one_head_of_keys_for_all_queries(name: str) -> None:
    """Its dimensions go with those of every head of queries; no head can go by itself."""
    config = CONFIGS[name] | {"multi_query": True, "new_decoder_architecture": False}
    torch.manual_seed(0)
    model = randomise(huggingface.build(config=config, auto_class=huggingface.CAUSAL).eval())
    graph = analyse(model, tokens(), ALL)
    kinds = {group.kind: group for group in graph.groups}
    assert kinds.keys() == {"ffn", "vo", "qk"}
    assert (kinds["vo"].num_units, kinds["vo"].num_partitions) == (8, 1)
    groups, refused = confirm(model, graph.groups, Batch.of(tokens()), graph.attention)
    assert not refused
    assert_cut_is_right_and_counted(model, graph, groups, irregular(graph, groups, seed=2), tokens())


@pytest.mark.parametrize("name", ["phi3", "falcon"])
def test_heads_of_fused_projections_in_the_stock_form(name: str, tmp_path: Path) -> None:
    """Phi-3 has the size of heads in its configuration; Falcon computes it, and is told what to use instead."""
    small: Any = snp.prune(
        transformer(name), token_batches(), structures=("heads",), target_units=0.5, calibration="joint"
    ).model.eval()
    if name == "falcon":
        with pytest.raises(ValueError, match=r"snp\.save and snp\.load"):
            huggingface.save_pretrained(small, tmp_path)
        return
    huggingface.save_pretrained(small, tmp_path)
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert (stock.config.num_attention_heads, stock.config.num_key_value_heads) == (2, 1)
    torch.testing.assert_close(outputs(stock, tokens()), outputs(small, tokens()))
