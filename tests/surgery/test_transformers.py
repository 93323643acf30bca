"""Are transformers of Hugging Face analysed, cut, saved and used for generation as they should be?"""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import snp
from snp.export import export_program
from snp.models import build, huggingface
from snp.settings import PruneSettings
from snp.surgery.subject import subject_of
from tests.transformer_models import CONFIGS, token_batches, transformer

CAUSAL = [name for name, (auto_class, _) in CONFIGS.items() if auto_class == huggingface.CAUSAL]


def ffn_weights(model: nn.Module) -> set[str]:
    """Weights of layers that compute the 24 hidden units of feed-forward blocks."""
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == 24
    }


def first(model: nn.Module, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return next(iter(model(tokens).values()))


@pytest.mark.parametrize("name", CONFIGS)
def test_all_hidden_units_are_found(name: str) -> None:
    """Every feed-forward block is a group of its 24 units, gate and value of a gated one together."""
    model = transformer(name)
    subject = subject_of(model, token_batches()[0][:2], PruneSettings())
    hidden = [group for group in subject.groups if group.num_units == 24]
    assert len(hidden) == 2
    assert {member.tensor for group in hidden for member in group.producers} == ffn_weights(model)


@pytest.mark.parametrize("calibration", ["joint", "sequential"])
@pytest.mark.parametrize("name", CONFIGS)
def test_cut_of_dead_units_changes_nothing(name: str, calibration: str) -> None:
    """Where half of the hidden units are dead, exactly they go and the output stays."""
    model = transformer(name)
    subject = subject_of(model, token_batches()[0][:2], PruneSettings())
    hidden = [group for group in subject.groups if group.num_units == 24]
    dead = torch.arange(0, 24, 2)
    with torch.no_grad():
        for group in hidden:
            for member in (*group.producers, *group.others):
                if member in group.others:  # biases that keep every other unit alive behind its ReLU
                    model.get_parameter(member.tensor).fill_(4.0)
                model.get_parameter(member.tensor).index_fill_(member.dim, dead, 0.0)
    others = tuple(group.name for group in subject.groups if group.num_units != 24)
    result = snp.prune(
        model, token_batches(), target_units=0.5, ordering="variance", calibration=calibration, ignore=others
    )
    decided = {decision.group.name: decision.kept.tolist() for decision in result.plan.groups}
    assert decided == {group.name: list(range(1, 24, 2)) for group in hidden}
    tokens = token_batches(seed=5)[0]
    torch.testing.assert_close(first(result.model, tokens), first(model, tokens), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_saved_and_loaded_without_the_model(name: str, tmp_path: Path) -> None:
    """With the recipe in plan.json nothing else is needed."""
    auto_class, config = CONFIGS[name]
    model = transformer(name)
    result = snp.prune(model, token_batches(), target_params=0.8, calibration="joint")
    snp.save(result, tmp_path, {"family": "huggingface", "arguments": {"config": config, "auto_class": auto_class}})
    again = snp.load(tmp_path)
    tokens = token_batches(seed=5)[0]
    assert torch.equal(first(again, tokens), first(result.model.eval(), tokens))


@pytest.mark.parametrize("name", CAUSAL)
def test_generation_with_and_without_cache_agree(name: str) -> None:
    """Greedy continuations of a pruned model are the same whether keys and values are kept or computed again."""
    small = snp.prune(transformer(name), token_batches(), target_params=0.8, calibration="joint").model.eval()
    prompt = token_batches(seed=3)[0][:3]
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    texts = [
        small.generate(prompt, attention_mask=torch.ones_like(prompt), use_cache=use_cache, **settings)
        for use_cache in (True, False)
    ]
    assert texts[0].shape == (3, prompt.shape[1] + 8)
    assert torch.equal(texts[0], texts[1])


@pytest.mark.parametrize("name", CONFIGS)
def test_equal_sizes_are_saved_in_the_stock_form(name: str, tmp_path: Path) -> None:
    """A stock model reads them, and computes the same."""
    model = transformer(name)
    groups = subject_of(model, token_batches()[0][:2], PruneSettings()).groups
    others = tuple(group.name for group in groups if group.num_units != 24)
    small = snp.prune(model, token_batches(), target_units=0.5, calibration="joint", ignore=others).model.eval()
    huggingface.save_pretrained(small, tmp_path)
    stock = getattr(transformers, CONFIGS[name][0]).from_pretrained(tmp_path).eval()
    tokens = token_batches(seed=5)[0]
    torch.testing.assert_close(first(stock, tokens), first(small, tokens))
    assert stock.config.use_cache


TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
TOWERS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    # Where the field is open, or several fields say it at once.
    "gpt2": ("AutoModelForCausalLM", {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2}, ("n_inner",)),
    "bart": (
        "AutoModelForSeq2SeqLM",
        {
            "vocab_size": 40, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
        },
        ("encoder_ffn_dim", "decoder_ffn_dim"),
    ),
    "clip": (
        "AutoModel",
        {
            "text_config": {"vocab_size": 40, **TINY}, "projection_dim": 10,
            "vision_config": {"image_size": 16, "patch_size": 8, **TINY},
        },
        ("text_config.intermediate_size", "vision_config.intermediate_size"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TOWERS)
def test_sizes_that_several_fields_say(name: str, tmp_path: Path) -> None:
    """Encoder and decoder, two towers, a field that is a multiple of the width where it is open."""
    auto, config, fields = TOWERS[name]
    torch.manual_seed(0)
    model = getattr(transformers, auto).from_config(transformers.AutoConfig.for_model(name, **config)).eval()
    batch = {"input_ids": torch.randint(3, 40, (4, 6))}
    if name == "clip":
        batch["pixel_values"] = torch.randn(4, 3, 16, 16)
    if name == "bart":
        batch["decoder_input_ids"] = batch["input_ids"]
    small = snp.prune(model, [batch], target_units=0.5, cut="uniform", calibration="joint").model
    huggingface.save_pretrained(small, tmp_path)
    stock = type(model).from_pretrained(tmp_path).eval()
    for field in fields:
        assert functools.reduce(getattr, field.split("."), stock.config) == (32 if name == "gpt2" else 12)
    with torch.no_grad():
        wanted, found = (tree_leaves(dict(network(**batch)))[0] for network in (small, stock))
    torch.testing.assert_close(found, wanted)


def test_different_sizes_are_refused(tmp_path: Path) -> None:
    """The configuration has one number, and the message says how to get there."""
    model = transformer("opt")
    name = subject_of(model, token_batches()[0][:2], PruneSettings()).groups[0].name
    small = snp.prune(model, token_batches(), target_units=0.5, calibration="joint", ignore=(name,)).model
    with pytest.raises(ValueError, match=r"target_units=.*snp\.save"):
        huggingface.save_pretrained(small, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"config": {"model_type": "nothing"}}, "cannot build a model"),
        (
            {"config": CONFIGS["opt"][1], "auto_class": "AutoTokenizer"},
            "must be one of AutoModelForCausalLM, AutoModel",
        ),
    ],
)
def test_recipes_that_cannot_be(arguments: dict[str, object], words: str) -> None:
    """An unknown architecture or class is named."""
    with pytest.raises(ValueError, match=words):
        build("huggingface", arguments)


def as_it_comes(name: str) -> nn.Module:
    """A network as transformers gives it: it keeps a cache of keys and values unless told not to."""
    model = transformer(name)
    model.config.use_cache = True
    return model


@pytest.mark.parametrize("name", CAUSAL)
def test_cache_and_labels_change_nothing(name: str) -> None:
    """Mappings with labels for a network that keeps a cache give what tokens give to one that keeps none."""
    batches = token_batches()
    mappings = [{"labels": tokens, "input_ids": tokens} for tokens in batches]
    options = {"target_params": 0.9, "ordering": "variance", "cut": "uniform"}
    wanted = snp.prune(transformer(name), batches, **options)
    model = as_it_comes(name)
    found = snp.prune(model, mappings, **options)
    assert [g.kept.tolist() for g in found.plan.groups] == [g.kept.tolist() for g in wanted.plan.groups]
    for key, value in wanted.model.state_dict().items():
        assert torch.equal(value, found.model.state_dict()[key]), key
    assert model.config.use_cache
    assert found.model.config.use_cache
    assert "past_key_values" in found.model(batches[0])
    prompt, settings = batches[0][:2, :4], {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    grown = [found.model.generate(prompt, use_cache=cache, **settings) for cache in (True, False)]
    assert torch.equal(*grown)


def test_what_a_stock_model_reads_otherwise_is_not_written(tmp_path: Path) -> None:
    """A scale that the stock form does not know is refused, and nothing is left in the folder."""
    model = transformer("llama")
    for layer in model.model.layers:
        layer.self_attn.scaling *= 2.0
    with pytest.raises(ValueError, match="computes something else with these weights"):
        huggingface.save_pretrained(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_caches_inside_a_network_of_images_and_text_are_turned_off() -> None:
    """Its own configuration says nothing of a cache, and its code passes the keyword on."""
    images = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    images |= {"model_type": "clip_vision_model", "image_size": 16, "patch_size": 8}
    config = transformers.LlavaConfig(text_config=CONFIGS["llama"][1], vision_config=images, image_token_index=31)
    model = transformers.LlavaForConditionalGeneration(config).eval()
    assert model.config.text_config.use_cache
    assert len(subject_of(model, {"input_ids": token_batches()[0][:2]}, PruneSettings()).groups) == 2
    assert model.config.text_config.use_cache


class Around(nn.Module):
    """Gives out whatever a language model does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> object:
        return self.model(tokens)


def test_a_cache_that_no_keyword_reaches_is_named(tmp_path: Path) -> None:
    """What cannot be turned off from outside is said with how to do it, by the export to files, too."""
    model, tokens = Around(as_it_comes("llama")).eval(), token_batches()[0][:2]
    words = r"DynamicCache.* in output.*set use_cache=False in the configuration of the language model"
    with pytest.raises(ValueError, match=words):
        subject_of(model, tokens, PruneSettings())
    with pytest.raises(ValueError, match=words):
        export_program(model, tokens, tmp_path / "model.pt2")
