"""Are the hidden units of every expert units like others, and is the small network a stock one?"""

from typing import Any

import pytest
import torch
import transformers
from torch import nn

import snp
from snp.graph.batches import Batch
from snp.graph.counting import macs_of_batch
from snp.graph.plain_experts import PlainExperts, plain_experts, restacked
from snp.graph.plain_weights import with_plain_weights
from snp.library import prune_streamed
from snp.models import huggingface
from snp.settings import PruneSettings
from snp.surgery.audit import audit, control
from snp.surgery.subject import survey

SIZES = {
    "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 32, "num_experts_per_tok": 2, "pad_token_id": 0,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {"intermediate_size": 32, "num_local_experts": 3},
    "qwen2_moe": {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 24, "num_experts": 3},
    "olmoe": {"intermediate_size": 32, "num_experts": 3},
    # Transposed, with biases, value and gate in turn.
    "gpt_oss": {"intermediate_size": 32, "num_local_experts": 3, "head_dim": 8, "layer_types": ["full_attention"]},
}


def language_model(family: str) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **SIZES, **FAMILIES[family])
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "experts" in name:
                parameter.normal_(std=0.3)
    return model, torch.randint(3, 64, (6, 8), generator=torch.Generator().manual_seed(1))


def experts_of(model: nn.Module) -> Any:
    return next(m for m in model.modules() if hasattr(m, "down_proj") and isinstance(m.down_proj, nn.Parameter))


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_experts_compute_the_same_and_go_back(family: str) -> None:
    """In plain layers, in one tensor each again, and to the bit in between; as many products in either form."""
    model, tokens = language_model(family)
    plain = with_plain_weights(model)
    assert any(isinstance(module, PlainExperts) for module in plain.modules())
    assert macs_of_batch(plain, Batch.of({"input_ids": tokens})) == macs_of_batch(
        model, Batch.of({"input_ids": tokens})
    )
    with torch.no_grad():
        wanted, found = model(tokens).logits, plain(tokens).logits
    assert float((wanted - found).abs().max() / wanted.abs().max()) < 1e-5
    again = restacked(plain)
    assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    assert all(torch.equal(p, dict(model.named_parameters())[n]) for n, p in again.named_parameters())
    assert type(experts_of(again)) is type(experts_of(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_units_of_every_expert_are_audited(family: str) -> None:
    """A group per expert; what is found is all that its units touch, and it matters."""
    model, tokens = language_model(family)
    plain, batch = with_plain_weights(model), {"input_ids": tokens}
    found = survey(plain, batch, PruneSettings())
    groups = [group for group in found.groups if group.twins]
    assert [group.num_units for group in groups] == [32, 32, 32]
    assert len({group.twins for group in groups}) == 1
    for group in groups:
        assert audit(plain, [group], batch) < 1e-5
        assert control(plain, [group], batch) > 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_small_experts_are_stock_ones(family: str, tmp_path: Any) -> None:
    """Each expert keeps units of its own, all as many; counted, saved, loaded, trained and generating."""
    model, tokens = language_model(family)
    batch = {"input_ids": tokens}
    result = snp.prune(model, [batch], target_units=0.5, cut="uniform", round_to=8)
    kept = [
        decision.kept
        for decision in result.plan.groups
        if decision.group.twins or "experts.each" in decision.group.name
    ]
    assert [len(units) for units in kept] == [16, 16, 16]
    assert not torch.equal(kept[0], kept[1])
    experts = experts_of(result.model)
    assert type(experts) is type(experts_of(model))
    assert macs_of_batch(result.model, Batch.of(batch)) == result.plan.macs["pruned"] < result.plan.macs["dense"]
    snp.save(result, tmp_path)
    loaded = snp.load(tmp_path, model)
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, result.model(tokens).logits)
    result.model.train()(tokens, labels=tokens).loss.backward()
    assert experts.down_proj.grad is not None
    settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    with_cache, without = (result.model.eval().generate(tokens[:1], use_cache=c, **settings) for c in (True, False))
    assert torch.equal(with_cache, without)


def test_stock_form_holds_small_experts(tmp_path: Any) -> None:
    """`from_pretrained` reads them, by the size in the configuration."""
    model, tokens = language_model("mixtral")
    result = snp.prune(model, [{"input_ids": tokens}], target_units=0.5, cut="uniform", round_to=8)
    huggingface.save_pretrained(result.model, tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    assert again.config.intermediate_size == 16
    with torch.no_grad():
        assert torch.allclose(again(tokens).logits, result.model(tokens).logits, atol=1e-6)


def test_budgets_keep_experts_alike() -> None:
    """Whatever the allocation, experts of one layer keep the same number, a multiple of eight; the budget is true."""
    model, tokens = language_model("qwen2_moe")
    for options in ({"target_macs": 0.9}, {"target_params": 0.9, "planner": "magnitude"}):
        plan = snp.prune(model, [{"input_ids": tokens}], round_to=1, **options).plan
        counts = {len(d.kept) for d in plan.groups if "experts.each" in d.group.name}
        assert len(counts) == 1
        assert counts.pop() % 8 == 0


def test_expert_without_tokens_is_cut_without_a_fit() -> None:
    """Nothing is known of it, so nothing is folded: what stays of its weights are the dense ones."""
    model, tokens = language_model("mixtral")
    router, chosen = next(m for m in model.modules() if type(m).__name__ == "MixtralTopKRouter"), []
    with torch.no_grad():
        router.weight.zero_()
        handle = router.register_forward_hook(lambda _, args, output: chosen.append(output[2]))
        model(tokens)
    handle.remove()
    (idle,) = {0, 1, 2} - set(chosen[0].unique().tolist())
    result = snp.prune(model, [{"input_ids": tokens}], target_units=0.5, cut="uniform", round_to=8)
    kept = next(d.kept for d in result.plan.groups if f"each.{idle}.up" in d.group.name)
    wanted, found = experts_of(model).down_proj[idle], experts_of(result.model).down_proj[idle]
    assert torch.equal(found, wanted[:, kept])
    assert not torch.equal(experts_of(result.model).down_proj[1 - idle], experts_of(model).down_proj[1 - idle][:, :16])


def test_other_modules_and_other_numbers_stay_as_they_are() -> None:
    """No experts, and experts that a subclass computes otherwise."""
    assert plain_experts(nn.Linear(3, 3)) is None
    model, _ = language_model("mixtral")
    experts = experts_of(model)
    original = type(experts).forward

    class Doubled(type(experts)):  # type: ignore[misc]
        def forward(self, *args: Any) -> torch.Tensor:
            return 2 * original(self, *args)

    experts.__class__ = Doubled
    assert plain_experts(experts) is None


def test_experts_are_calibrated_block_by_block() -> None:
    """The plan and the weights are those of the usual way."""
    model, _ = language_model("mixtral")
    batches = [
        {"input_ids": torch.randint(3, 64, (6, 8), generator=torch.Generator().manual_seed(seed))} for seed in (1, 2)
    ]
    options = {"calibration": "joint", "ordering": "zca", "cut": "variance", "target_params": 0.823, "round_to": 8}
    usual, streamed = snp.prune(model, batches, **options), prune_streamed(model, batches, **options)
    assert type(experts_of(streamed.model)) is type(experts_of(model))
    wanted, found = usual.model.state_dict(), streamed.model.state_dict()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
