"""Are heads found, and cut right, where a decoder looks at an encoder, and where biases of positions meet scores?"""

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
from snp.plan.costs import CostModel
from snp.speed.network import macs
from snp.surgery.attention_biased import BiasedAttention
from snp.surgery.attention_separate import SeparateAttention
from snp.surgery.checks import self_check
from snp.surgery.surgery import cut, masked_weights, with_weights
from snp.surgery.trial_cuts import confirm
from tests.attention_networks import irregular
from tests.audit import audit, control, outputs

ALL = ("ffn", "vo", "qk", "heads")
# Heads of eight dimensions in two layers of encoder and decoder.
CONFIGS: dict[str, dict[str, Any]] = {
    "t5": {
        "model_type": "t5", "vocab_size": 32, "d_model": 24, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 3,
        "decoder_start_token_id": 0, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16,
    },
    "bart": {
        "model_type": "bart", "vocab_size": 32, "d_model": 24, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 3, "decoder_attention_heads": 3, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
        "max_position_embeddings": 32, "pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 0,
        "forced_eos_token_id": None,
    },
}  # fmt: skip


def transformer(name: str, implementation: str = "sdpa") -> nn.Module:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**CONFIGS[name])
    model: Any = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3) if parameter.ndim > 1 else parameter.uniform_(0.5, 1.5)
    model.set_attn_implementation(implementation)
    return model


def texts(count: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """What the encoder reads, seven tokens of which the last may be none, and five for the decoder."""
    generator = torch.Generator().manual_seed(seed)
    read, written = (torch.randint(3, 32, (count, length), generator=generator) for length in (7, 5))
    mask = torch.ones_like(read)
    mask[0, 5:] = 0
    return {"input_ids": read, "attention_mask": mask, "decoder_input_ids": written}


@cache
def analysed(name: str, implementation: str = "sdpa") -> tuple[nn.Module, CouplingGraph]:
    model = transformer(name, implementation)
    return model, analyse(model, texts(), ALL)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_structure_is_found_and_bears_a_cut(name: str) -> None:
    """Six layers of attention; T5's heads share one bias in each stack, where tokens look at each other."""
    model, graph = analysed(name)
    kinds = [group.kind for group in graph.groups]
    assert [kinds.count(kind) for kind in ("vo", "qk", "heads")] == [6, 6, 4 if name == "t5" else 6]
    assert not confirm(model, graph.groups, Batch.of(texts()), graph.attention)[1]


@pytest.mark.parametrize("name", CONFIGS)
def test_groups_pass_the_audit(name: str) -> None:
    model, graph = analysed(name)
    for group in graph.groups:
        if not group.is_multiplied:
            assert audit(model, [group], texts()) < 1e-5, group.name
            assert control(model, [group], texts()) > 1e-7, group.name


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kinds", [ALL, ("heads",)])
def test_cut_is_the_mask_and_costs_are_exact(name: str, implementation: str, kinds: tuple[str, ...]) -> None:
    """Irregular cuts, other ones in every layer: as the dense network with zeros; MACs as they are counted."""
    model, graph = analysed(name, implementation)
    groups, batch = tuple(group for group in graph.groups if group.kind in kinds), Batch.of(texts())
    plan = irregular(graph, groups, seed=1)
    masked = with_weights(model, masked_weights(model, plan))
    small: Any = cut(masked, plan)
    ours = BiasedAttention if name == "t5" else SeparateAttention
    assert kinds == ("heads",) or any(type(module) is ours for module in small.modules())
    assert self_check(masked, small, batch) < 1e-5
    costs, kept = CostModel(model, graph, groups), [len(decision.kept) for decision in plan.groups]
    assert costs.macs(kept) == macs(small, batch.first(1))
    assert costs.params(kept) == sum(parameter.numel() for parameter in small.parameters())
    small.set_attn_implementation("eager" if implementation == "sdpa" else "sdpa")
    torch.testing.assert_close(small(**texts()).logits, masked(**texts()).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("structures", [ALL, ("heads",)])
def test_generation_with_and_without_cache_agree(name: str, structures: tuple[str, ...], tmp_path: Path) -> None:
    """Keys and values of the encoder's tokens are kept from the first token on; the network comes back from disk."""
    result = snp.prune(
        transformer(name), [texts(12, seed) for seed in (1, 2)], structures=structures, target_units=0.6,
        calibration="joint",
    )  # fmt: skip
    snp.save(result, tmp_path)
    small: Any = snp.load(tmp_path, transformer(name)).eval()
    assert torch.equal(outputs(small, texts()), outputs(result.model.eval(), texts()))
    prompt = texts(seed=3)
    settings: dict[str, Any] = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "num_beams": 1}
    settings |= {"attention_mask": prompt["attention_mask"], "output_logits": True, "return_dict_in_generate": True}
    with_cache, without = (
        small.generate(prompt["input_ids"], use_cache=use_cache, **settings) for use_cache in (True, False)
    )
    assert with_cache.sequences.shape == (2, 9)
    assert torch.equal(with_cache.sequences, without.sequences)
    torch.testing.assert_close(with_cache.logits, without.logits, rtol=1e-4, atol=1e-4)
    small.train()(**texts()).logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


@pytest.mark.parametrize("name", ["bart", pytest.param("t5", marks=pytest.mark.slow)])
def test_pruned_twice(name: str) -> None:
    batches = [texts(12, seed) for seed in (1, 2)]
    once = snp.prune(transformer(name), batches, structures=ALL, target_units=0.7, calibration="joint")
    twice = snp.prune(once.model, batches, structures=ALL, target_units=0.5, calibration="joint")
    assert twice.plan.macs["dense"] == once.plan.macs["pruned"] > twice.plan.macs["pruned"]


@pytest.mark.parametrize("name", CONFIGS)
def test_whole_heads_of_t5_are_saved_in_the_stock_form(name: str, tmp_path: Path) -> None:
    """Its configuration names the size of heads beside their number; that of BART does not, and is refused."""
    batches = [texts(12, seed) for seed in (1, 2)]
    small: Any = snp.prune(
        transformer(name), batches, structures=("heads",), target_units=0.6, calibration="joint"
    ).model.eval()
    if name == "bart":
        with pytest.raises(ValueError, match=r"snp\.save and snp\.load"):
            huggingface.save_pretrained(small, tmp_path)
        return
    huggingface.save_pretrained(small, tmp_path)
    stock: Any = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    assert stock.config.num_heads == 2
    torch.testing.assert_close(stock(**texts()).logits, small(**texts()).logits)
