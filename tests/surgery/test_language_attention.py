"""Are heads of transformers of Hugging Face found, cut as the mask says, saved, and used with a cache?"""

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
from snp.models import huggingface
from snp.settings import PruneSettings
from snp.surgery.attention_separate import SeparateAttention
from snp.surgery.subject import subject_of
from snp.surgery.surgery import cut, masked_weights, with_weights
from snp.surgery.trial_cuts import confirm
from tests.attention_networks import assert_cut_is_right_and_counted, irregular
from tests.audit import audit, control, outputs
from tests.transformer_models import CONFIGS, token_batches, transformer

ALL = ("ffn", "vo", "qk", "heads")
CAUSAL = [name for name, (auto_class, _) in CONFIGS.items() if auto_class == huggingface.CAUSAL]
ROTARY = ("llama", "qwen2")  # with two query heads on each head of keys and values
STRUCTURES = [("vo",), ("qk",), ("heads",), ("vo", "qk"), ALL]


def attending(name: str, implementation: str) -> nn.Module:
    model: Any = transformer(name)
    model.set_attn_implementation(implementation)
    return model


def tokens(count: int = 2, seed: int = 0) -> Tensor:
    return token_batches(count, seed=seed)[0]


@cache
def analysed(
    name: str, structures: tuple[str, ...], implementation: str = "sdpa", equal: bool = False
) -> tuple[nn.Module, CouplingGraph]:
    """Several tests look at one network, and leave it as it is."""
    model = attending(name, implementation)
    return model, analyse(model, tokens(), structures, equal_sizes=equal)


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


# Fused and eager attention, biases and none, shared heads, an output projection outside the module; the rest is slow.
WAYS = [("opt", "sdpa"), ("llama", "eager"), ("bert", "sdpa")]
MORE_WAYS = [slow(name, way) for name in CONFIGS for way in ("sdpa", "eager") if (name, way) not in WAYS]


@pytest.mark.parametrize(("name", "implementation"), WAYS + MORE_WAYS)
def test_every_structure_is_found(name: str, implementation: str) -> None:
    """One group per layer and kind; heads of keys and values are units with all queries that share them."""
    model, graph = analysed(name, ALL, implementation)
    groups = subject_of(model, tokens(), PruneSettings(structures=ALL)).groups
    found = {kind: [group for group in groups if group.kind == kind] for kind in ALL}
    is_rotary = name in ROTARY
    assert [len(found[kind]) for kind in ("vo", "qk", "heads")] == [2, 2, 2]
    for group in found["vo"] + found["qk"]:
        # Dimensions that rotary embeddings turn go in pairs.
        in_pairs = is_rotary and group.kind == "qk"
        assert (group.num_partitions, group.units_per_partition) == (2 if is_rotary else 4, 2 if in_pairs else 4)
    for group in found["heads"]:
        assert group.num_units == (2 if is_rotary else 4)
        query = next(member for member in group.producers if "q" in member.tensor.split(".")[-2])
        assert query.width == (8 if is_rotary else 4)
    assert {layer.is_rotary for layer in graph.attention} == {is_rotary}


@pytest.mark.parametrize(("name", "implementation"), WAYS + MORE_WAYS)
def test_groups_pass_the_audit(name: str, implementation: str) -> None:
    """With the readers' columns zero, or for products with a dimension's queries zero, the rest may be anything."""
    model, graph = analysed(name, ALL, implementation)
    audited = set()
    for group in graph.groups:
        if group.kind in ("vo", "heads"):
            assert audit(model, [group], tokens()) < 1e-5, group.name
            assert control(model, [group], tokens()) > 1e-6, group.name
            audited.add(group.kind)
        elif group.kind == "qk":
            queries = tuple(
                part for part in group.producers + group.others if ".q_proj." in part.tensor or "query" in part.tensor
            )
            keys = tuple(part for part in group.producers + group.others if part not in queries)
            for silent, changed in ((queries, keys), (keys, queries)):
                assert audit(model, [replace(group, producers=changed, consumers=silent, others=())], tokens()) < 1e-5
                assert control(model, [replace(group, producers=changed, others=())], tokens()) > 1e-6
            audited.add(group.kind)
    assert audited == {"vo", "qk", "heads"}


CUTS = [(structures, equal) for structures in STRUCTURES for equal in (False, True)]
CUTS = [(structures, equal) for structures, equal in CUTS if not equal or len({"vo", "qk"} & set(structures)) != 1]


@pytest.mark.parametrize(
    ("name", "implementation", "structures", "equal"),
    [(*way, ALL, False) for way in WAYS]
    + [("opt", "sdpa", ("vo", "qk"), True)]
    + [slow(*way.values, *made) for way in MORE_WAYS for made in CUTS]
    + [slow(*way, *made) for way in WAYS for made in CUTS if made != (ALL, False)],
)
def test_cut_is_the_mask_and_costs_are_exact(
    name: str, implementation: str, structures: tuple[str, ...], equal: bool
) -> None:
    """Irregular cuts: as the dense network, scale and all, with zeros; MACs as counted, parameters as they are."""
    model, graph = analysed(name, structures, implementation, equal)
    batch = tokens()
    groups, refused = confirm(model, graph.groups, Batch.of(batch), graph.attention)
    assert not refused
    plan = irregular(graph, groups, seed=1)
    masked, small = assert_cut_is_right_and_counted(model, graph, groups, plan, batch)
    # Both ways to attend give the same with heads of these sizes, too.
    other: Any = small
    other.set_attn_implementation("eager" if implementation == "sdpa" else "sdpa")
    torch.testing.assert_close(outputs(other, batch), outputs(masked, batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["opt", "llama"])
def test_padded_positions_are_masked_as_in_the_stock_module(name: str) -> None:
    """An attention mask reaches our module: what pads hold does not matter, and the masked dense network agrees."""
    model, graph = analysed(name, ALL, dict(WAYS)[name])
    plan = irregular(graph, graph.groups, seed=1)
    masked = with_weights(model, masked_weights(model, plan))
    small = cut(masked, plan)
    assert any(isinstance(module, SeparateAttention) for module in small.modules())
    words = tokens(seed=4)
    mask = torch.ones_like(words)
    mask[0, :5] = 0
    others = words.clone()
    others[0, :5] = 7
    found, again, wanted = (
        net(batch, attention_mask=mask).logits[mask.bool()]
        for net, batch in ((small, words), (small, others), (masked, words))
    )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, again, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "structures"),
    [("opt", ALL), ("llama", ALL)]
    + [slow(name, structures) for name in CAUSAL for structures in (("vo",), ("vo", "qk"), ("heads",))],
)
def test_generation_with_and_without_cache_agree(name: str, structures: tuple[str, ...]) -> None:
    """Greedy continuations are the same whether keys and values of the sizes now are kept or computed again."""
    result = snp.prune(transformer(name), token_batches(), structures=structures, target_units=0.5, calibration="joint")
    small: Any = result.model.eval()
    assert result.plan.params["pruned"] < result.plan.params["dense"]
    prompt = tokens(3, seed=3)
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    with_cache, without = (
        small.generate(prompt, attention_mask=torch.ones_like(prompt), use_cache=use_cache, **settings)
        for use_cache in (True, False)
    )
    assert with_cache.shape == (3, prompt.shape[1] + 8)
    assert torch.equal(with_cache, without)


@pytest.mark.parametrize("name", ["llama", *(slow(name) for name in CONFIGS if name != "llama")])
def test_comes_back_from_disk_exports_and_trains(name: str, tmp_path: Path) -> None:
    """Plan and weights are enough, without pickle; torch.export takes our module; every parameter gets gradients."""
    auto_class, config = CONFIGS[name]
    result = snp.prune(transformer(name), token_batches(), structures=("ffn", "vo"), target_units=0.5)
    snp.save(result, tmp_path, {"family": "huggingface", "arguments": {"config": config, "auto_class": auto_class}})
    again = snp.load(tmp_path)
    assert any(isinstance(module, SeparateAttention) for module in again.modules())
    batch = tokens(seed=5)
    assert torch.equal(outputs(again, batch), outputs(result.model.eval(), batch))
    program = torch.export.export(again, (batch,), strict=False).module()
    torch.testing.assert_close(outputs(program, batch), outputs(again, batch))
    next(iter(again.train()(batch).values())).square().mean().backward()
    unused = ("pooler",) if name == "bert" else ()
    assert all(p.grad is not None for n, p in again.named_parameters() if not n.startswith(unused or "-"))


@pytest.mark.slow
def test_pruned_twice() -> None:
    """A network with our module in it is analysed and cut like any other."""
    once = snp.prune(transformer("opt"), token_batches(), structures=("vo",), target_units=0.5, calibration="joint")
    twice = snp.prune(once.model, token_batches(), structures=ALL, target_units=0.5, calibration="joint")
    assert twice.plan.macs["dense"] == once.plan.macs["pruned"] > twice.plan.macs["pruned"]


@pytest.mark.parametrize("name", ["llama", slow("qwen2")])
def test_whole_heads_are_saved_in_the_stock_form(name: str, tmp_path: Path) -> None:
    """Where the configuration names the size of heads, a stock model with fewer of them computes the same."""
    small = snp.prune(
        transformer(name), token_batches(), structures=("heads", "ffn"), target_units=0.5, calibration="joint"
    ).model.eval()
    huggingface.save_pretrained(small, tmp_path)
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert (stock.config.num_attention_heads, stock.config.num_key_value_heads) == (2, 1)
    assert stock.config.intermediate_size == 12
    torch.testing.assert_close(outputs(stock, tokens(seed=5)), outputs(small, tokens(seed=5)))


@pytest.mark.parametrize("name", ["opt", slow("llama"), slow("bert")])
def test_sizes_that_no_configuration_has_are_refused(name: str, tmp_path: Path) -> None:
    """Values narrower than the stream over the heads: the way that is left is named."""
    small = snp.prune(
        transformer(name), token_batches(), structures=("vo",), target_units=0.5, calibration="joint"
    ).model
    with pytest.raises(ValueError, match=r"snp\.save and snp\.load"):
        huggingface.save_pretrained(small, tmp_path)
    assert not list(tmp_path.iterdir())
