"""Does a folder of `snp.save` know what its network reads and how it was built, and is that never a wrong guess?"""

import copy
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

import snp
from snp.graph.batches import Batch
from snp.graph.input_forms import example_of, forms_of
from snp.models import huggingface, rebuild
from snp.models.sources.module_settings import kinds_apart
from snp.models.sources.weights import stored_types
from snp.plan.plan import PruningPlan
from snp.speed.network import size_bytes
from tests.transformer_models import CONFIGS, token_batches, transformer

QUICK = {"planner": "magnitude", "reconstruct": False, "calibration": "joint", "target_units": 0.5}


def test_timm_networks_load_without_a_model(tmp_path: Path) -> None:
    """The recipe is found where nobody gave one, and the network that it gives computes the same."""
    model = timm.create_model("resnet10t", num_classes=7).eval()
    result = snp.prune(model, [torch.randn(4, 3, 32, 32)], **QUICK)
    snp.save(result, tmp_path)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(snp.load(tmp_path)(images), result.model(images))
    plan = PruningPlan.load(tmp_path / "plan.json")
    assert plan.inputs == {"0": {"shape": [3, 32, 32], "dtype": "float32"}}
    assert plan.recipe == {
        "family": "timm",
        "arguments": {"model_name": "resnet10t", "num_classes": 7, "image_size": None},
    }


@pytest.mark.parametrize(
    ("name", "asked", "size", "other"),
    [
        ("test_resnet", {"drop_rate": 0.5, "drop_path_rate": 0.2}, 64, 96),
        ("test_vit", {"drop_rate": 0.3, "drop_path_rate": 0.2, "dynamic_img_size": True}, 160, 128),
        ("test_efficientnet", {"drop_rate": 0.3, "bn_momentum": 0.01, "bn_eps": 3e-5}, 64, 96),
        ("test_resnet", {}, 64, 96),
    ],
)
def test_what_a_network_was_told_comes_back(
    name: str, asked: dict[str, Any], size: int, other: int, tmp_path: Path
) -> None:
    """Rates of dropout, epsilons and momenta, and sizes of images, though one pass does not show most of them."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **asked).eval()
    result = snp.prune(model, [torch.randn(4, 3, size, size)], **QUICK)
    snp.save(result, tmp_path)
    again = snp.load(tmp_path)
    assert kinds_apart(result.model, again) == ""
    with torch.no_grad():
        for images in (torch.randn(2, 3, size, size), torch.randn(2, 3, other, other)):
            assert torch.equal(again(images), result.model(images))
        torch.manual_seed(1)
        learning = result.model.train()(images)
        torch.manual_seed(1)
        assert torch.equal(again.train()(images), learning)


def test_modules_that_no_argument_asks_for_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They change nothing that is computed, and training all the more."""
    model = timm.create_model("test_resnet", num_classes=5).eval()
    model.global_pool = nn.Sequential(model.global_pool, nn.Dropout(0.5)).eval()
    result = snp.prune(model, [torch.randn(4, 3, 64, 64)], **QUICK)
    # Runs of other tests in this process were told to be quiet, and Hydra disables loggers for that.
    monkeypatch.setattr(logging.getLogger("snp"), "disabled", False)
    with caplog.at_level(logging.WARNING, "snp"):
        snp.save(result, tmp_path)
    assert "its global_pool is a SelectAdaptivePool2d where the network that was saved has a Sequential" in caplog.text
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(snp.load(tmp_path)(images), result.model(images))


def test_generation_comes_back(tmp_path: Path) -> None:
    """Ends of what a network says, penalties and lengths are in a file of their own beside its configuration."""
    torch.manual_seed(0)
    wanted = {"eos_token_id": [2, 7], "repetition_penalty": 1.3, "max_new_tokens": 30, "pad_token_id": 0}
    source = transformer("llama")
    source.generation_config = transformers.GenerationConfig(**wanted)
    source.save_pretrained(tmp_path / "dense")
    model = type(source).from_pretrained(tmp_path / "dense", local_files_only=True).eval()
    result = snp.prune(model, token_batches(), **QUICK)
    snp.save(result, tmp_path / "small")
    again = snp.load(tmp_path / "small")
    assert again.generation_config.to_dict() == result.model.generation_config.to_dict()
    recipe = huggingface.load(tmp_path / "dense")[1]
    assert recipe["generation"] == wanted
    asked = {**recipe, "generation": {**wanted, "_code": "x.py", "custom": 3, "compile_config": {"backend": "x"}}}
    built = rebuild({"family": "huggingface", "arguments": asked})
    assert {key: getattr(built.generation_config, key) for key in wanted} == wanted
    assert not hasattr(built.generation_config, "custom")
    assert not getattr(built.generation_config, "compile_config", None)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"bn1": {"forward": "x"}}, "plan.json sets bn1.forward, which is no number or word of the network"),
        ({"bn1": {"eps": {"a": 1}}}, "plan.json sets bn1.eps, which is no number"),
        ({"nowhere": {"eps": 1e-3}}, "plan.json sets nowhere.eps"),
        ({"bn1": 1e-3}, "must hold family, arguments and settings of modules, and nothing else"),
        ([1], "must hold family, arguments and settings of modules, and nothing else"),
    ],
)
def test_settings_from_anywhere(settings: Any, told: str) -> None:
    """They are numbers and words in the place of others."""
    arguments = {"model_name": "test_resnet", "num_classes": 5, "image_size": None}
    with pytest.raises(ValueError, match=re.escape(told)):
        rebuild({"family": "timm", "arguments": arguments, "settings": settings})


@pytest.mark.parametrize("has_statistics", [True, False])
def test_a_dense_network_without_values_is_refused(has_statistics: bool, tmp_path: Path) -> None:
    """Nothing can be loaded into tensors of the meta device, though weights of the dense network do not matter."""

    def network() -> nn.Module:
        norm = nn.BatchNorm1d(10) if has_statistics else nn.Identity()
        return nn.Sequential(nn.Linear(6, 10), norm, nn.ReLU(), nn.Linear(10, 3)).eval()

    snp.save(snp.prune(network(), [torch.randn(8, 6)], **QUICK), tmp_path)
    with torch.device("meta"):
        empty = network()
    with pytest.raises(ValueError, match="on the meta device, which holds shapes and no values: build it on the CPU"):
        snp.load(tmp_path, empty)


def test_transformers_load_without_a_model(tmp_path: Path) -> None:
    """The same from a configuration."""
    result = snp.prune(transformer("opt"), token_batches(), **QUICK)
    snp.save(result, tmp_path)
    tokens = token_batches(seed=5)[0]
    with torch.no_grad():
        torch.testing.assert_close(snp.load(tmp_path)(tokens).logits, result.model(tokens).logits)


WORDS = token_batches(4)[0]
IMAGES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
# Class of transformers -> kind of configuration, its entries, inputs and labels.
HEADS: dict[str, tuple[str, dict[str, Any], dict[str, Tensor], Tensor | None]] = {
    "BertForMaskedLM": ("bert", CONFIGS["bert"][1], {"input_ids": WORDS}, WORDS),
    "BertForSequenceClassification": (
        "bert",
        {**CONFIGS["bert"][1], "num_labels": 7},
        {"input_ids": WORDS},
        torch.arange(4),
    ),
    "T5ForConditionalGeneration": (
        "t5",
        {"vocab_size": 32, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 4},
        {"input_ids": WORDS, "decoder_input_ids": WORDS},
        WORDS,
    ),
    "YolosForObjectDetection": (
        "yolos",
        {**IMAGES, "image_size": [16, 16], "patch_size": 8, "num_detection_tokens": 3},
        {"pixel_values": torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))},
        None,
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_transformers_come_back_as_their_own_class(tmp_path: Path, name: str) -> None:
    """Networks of one function and another loss are told apart, and those that no auto class gives load, too."""
    kind, entries, batch, labels = HEADS[name]
    entries = {key: value for key, value in entries.items() if key != "model_type"}
    torch.manual_seed(0)
    model = getattr(transformers, name)(transformers.AutoConfig.for_model(kind, **entries)).eval()
    result = snp.prune(model, [batch], **QUICK)
    snp.save(result, tmp_path)
    again: Any = snp.load(tmp_path)
    assert type(again) is type(model)
    given = batch if labels is None else {**batch, "labels": labels}
    with torch.no_grad():
        wanted, found = (next(iter(network(**given).values())) for network in (result.model.eval(), again))
    assert torch.equal(found, wanted)
    assert again.config.num_labels == model.config.num_labels


def test_folders_of_earlier_recipes_load(tmp_path: Path) -> None:
    """Those that name no class are built by an auto class."""
    result, (auto_class, config) = snp.prune(transformer("bert"), token_batches(), **QUICK), CONFIGS["bert"]
    snp.save(result, tmp_path, {"family": "huggingface", "arguments": {"config": config, "auto_class": auto_class}})
    assert type(snp.load(tmp_path)) is type(result.model)


def test_a_recipe_that_fails_is_no_obstacle_to_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a library raises, the folder is whole, holds no recipe, and the reason is told."""
    model = transformer("opt")
    result = snp.prune(model, token_batches(), **QUICK)

    def fails(recipe: object) -> nn.Module:
        raise LookupError("of another version")

    monkeypatch.setattr("snp.models.rebuild", fails)
    # Runs of other tests in this process were told to be quiet, and Hydra disables loggers for that.
    monkeypatch.setattr(logging.getLogger("snp"), "disabled", False)
    with caplog.at_level(logging.WARNING, "snp"):
        snp.save(result, tmp_path)
    assert "holds no recipe of the dense model" in caplog.text
    assert "LookupError: of another version" in caplog.text
    assert PruningPlan.load(tmp_path / "plan.json").recipe is None
    assert type(snp.load(tmp_path, model)) is type(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("family", ["timm", "transformers"])
def test_other_precisions_come_back_to_the_bit(tmp_path: Path, family: str, dtype: torch.dtype) -> None:
    """Recipes build in single precision; weights and function of the folder are the saved network's."""
    if family == "timm":
        model: nn.Module = timm.create_model("resnet10t", num_classes=7).eval()
        batch = torch.randn(4, 3, 32, 32).to(dtype)
    else:
        model, batch = transformer("opt"), token_batches()[0]
    result = snp.prune(model.to(dtype), [batch], **QUICK)
    snp.save(result, tmp_path)
    assert PruningPlan.load(tmp_path / "plan.json").recipe is not None
    again, state = snp.load(tmp_path), result.model.state_dict()
    assert all(value.dtype == state[name].dtype for name, value in again.state_dict().items())
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tied_head_is_written_and_counted_once(tmp_path: Path, dtype: torch.dtype) -> None:
    """As in the files of Hugging Face; it comes back under both names, as one tensor."""
    model = transformer("opt").to(dtype)
    assert size_bytes(model) == sum(each.numel() for each in model.parameters()) * dtype.itemsize
    result = snp.prune(model, token_batches(), **QUICK)
    snp.save(result, tmp_path)
    file = tmp_path / "pruned.safetensors"
    written = load_file(file)
    head, table = "lm_head.weight", "model.decoder.embed_tokens.weight"
    assert len({head, table} & written.keys()) == 1
    assert sum(tensor.numel() * tensor.element_size() for tensor in written.values()) == size_bytes(result.model)
    again = snp.load(tmp_path)
    assert again.get_parameter(head) is again.get_parameter(table)
    assert torch.equal(again.get_parameter(head), result.model.get_parameter(table))
    assert {name: tensor.dtype for name, tensor in again.state_dict().items()} == stored_types(file)


def test_a_recipe_of_another_function_is_not_kept(tmp_path: Path) -> None:
    """A timm network built with another activation has the same tensors; by name alone it would load as another one."""
    model = timm.create_model("resnet10t", num_classes=7, act_layer=nn.SiLU).train()
    result = snp.prune(model, [torch.randn(4, 3, 32, 32)], **QUICK)
    snp.save(result, tmp_path)
    assert PruningPlan.load(tmp_path / "plan.json").recipe is None
    assert result.model.training
    with pytest.raises(ValueError, match=r"holds no recipe of the dense model: call load\(folder, model=\.\.\.\)"):
        snp.load(tmp_path)
    assert snp.load(tmp_path, model)(torch.randn(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_network_that_was_changed_by_hand_is_not_saved(is_replaced: bool, tmp_path: Path) -> None:
    """No plan makes it, so that it could not be loaded; one that was trained on is the plan's."""
    result = snp.prune(timm.create_model("resnet10t", num_classes=7), [torch.randn(4, 3, 32, 32)], **QUICK)
    changed = copy.deepcopy(result.model) if is_replaced else result.model
    size = changed.fc.in_features
    given = replace(result, model=changed)
    with torch.no_grad():
        changed.fc.weight.mul_(2)
    snp.save(given, tmp_path / "trained")
    changed.fc = nn.Linear(size, 3)
    told = rf"fc.weight had the shape \[7, {size}\] and has \[3, {size}\]\. Save what was pruned and change it once"
    with pytest.raises(ValueError, match=told):
        snp.save(given, tmp_path / "changed")
    changed.fc = nn.Sequential(nn.Linear(size, 7))
    with pytest.raises(ValueError, match=rf"fc.weight had the shape \[7, {size}\] and has none\. Save"):
        snp.save(given, tmp_path / "changed")
    assert not (tmp_path / "changed").exists()


def test_forms_give_inputs_again() -> None:
    """Shapes and types of one sample make batches of any size; what is no plain tensor is not noted."""
    batch = Batch((torch.zeros(4, 3, 8),), {"mask": torch.ones(4, 5, dtype=torch.int64)})
    assert forms_of(batch) == {
        "0": {"shape": [3, 8], "dtype": "float32"},
        "mask": {"shape": [5], "dtype": "int64"},
    }
    again = example_of(forms_of(batch), 2)
    assert again.args[0].shape == (2, 3, 8)
    assert torch.equal(again.kwargs["mask"], torch.ones(2, 5, dtype=torch.int64))
    assert forms_of(Batch((torch.zeros(4, 3),), {"flag": True})) == {}
    assert forms_of(Batch(((torch.zeros(4, 3),),))) == {}
