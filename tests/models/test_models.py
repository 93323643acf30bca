"""Are networks built, given their weights and described as the pipeline needs them, and are mistakes named?"""

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from safetensors.torch import save_file
from torch import nn

from snp.models import LanguageModelSpec, ModelSpec, WeightsNotFoundError, build, families, rebuild
from snp.models.sources import hub

CONF = Path(__file__).parents[2] / "conf"
ALL_NAMES = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
LANGUAGE_NAMES = ("huggingface", "opt")
MODEL_NAMES = sorted(set(ALL_NAMES) - set(LANGUAGE_NAMES))
SMALL = "test_resnet"  # timm's smallest residual network, made for tests
SMALL_REPOSITORY = "timm/test_resnet.r160_in1k"


def cifar_spec(**settings: object) -> ModelSpec:
    """A ResNet-20 for CIFAR, with settings of the test's own."""
    return ModelSpec(**{"family": "cifar_resnet", "name": "r20", "arguments": {"depth": 20}, **settings})


def small_spec(**settings: object) -> ModelSpec:
    """A tiny network of timm that asks for pretrained weights."""
    arguments = {"model_name": SMALL}
    return ModelSpec(**{"family": "timm", "name": SMALL, "arguments": arguments, "pretrained": True, **settings})


def compose_model(name: str, *overrides: str) -> ModelSpec:
    """The `ModelSpec` of a file in conf/model, made by Hydra."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(f"model/{name}", overrides=list(overrides))
    return instantiate(config.model)


def logits(model: nn.Module, image_size: int = 32) -> torch.Tensor:
    """What the network says of a fixed noise image, in evaluation mode."""
    images = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(images)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and a hub address at which nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path


@pytest.fixture
def filled_cache(cache: Path) -> dict[str, torch.Tensor]:
    """A hub cache that holds weights of the tiny network, in the hub's own layout; the weights themselves."""
    torch.manual_seed(7)
    tensors = build("timm", model_name=SMALL, num_classes=1000, image_size=None).state_dict()
    repository = cache / f"models--{SMALL_REPOSITORY.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save_file(tensors, snapshot / "model.safetensors")
    return tensors


# ------------------------------------------------------------------------------------------ families and conf


def test_families_are_the_files() -> None:
    """The families are the public files of snp/models."""
    assert families() == ("cifar_resnet", "huggingface", "timm")


@pytest.mark.parametrize("family", ["resnet", "_hub", "os", "../timm", ""])
def test_unknown_family_is_named(family: str) -> None:
    """A family that is no file there is refused with the list of those that are."""
    with pytest.raises(ValueError, match=r"model\.family must be one of cifar_resnet, huggingface, timm"):
        build(family, num_classes=10, image_size=32)


def test_import_is_light() -> None:
    """Importing snp.models loads neither timm nor Lightning."""
    code = "import sys, snp.models; print(sorted({'timm', 'pytorch_lightning', 'lightning'} & set(sys.modules)))"
    root = str(CONF.parent)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, env={**os.environ, "PYTHONPATH": root}
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_conf_builds_and_rebuilds(name: str) -> None:
    """Every file in conf/model gives a network with the wanted logits, and a JSON recipe that builds it again."""
    needed = {"timm": "model.name=resnet18", "other": "+model.arguments.depth=20"}
    overrides = ["model.pretrained=false", *([needed[name]] if name in needed else [])]
    spec = compose_model(name, *overrides)
    with torch.device("meta"):  # shapes only: no memory, no time
        prepared = spec.prepare(10, 64, trains_from_scratch=True)
        again = build(**json.loads(json.dumps(prepared.recipe)))
        assert prepared.model(torch.empty(2, 3, 64, 64)).shape == (2, 10)
    shapes = {key: tensor.shape for key, tensor in prepared.model.state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in again.state_dict().items()}
    assert prepared.weights == "random"
    assert prepared.image_size == 64


@pytest.mark.parametrize("name", ALL_NAMES)
def test_conf_lists_all_keys(name: str) -> None:
    """Every file in conf/model lists every field of its spec, so that Hydra refuses misspelt ones."""
    spec = LanguageModelSpec if name in LANGUAGE_NAMES else ModelSpec
    with initialize_config_dir(str(CONF), version_base="1.3"):
        keys = set(compose(f"model/{name}").model)
    assert keys == {"_target_", "_convert_", *spec.__dataclass_fields__}


def test_conf_timm_takes_any_name() -> None:
    """`model=timm model.name=...` passes the name on to timm."""
    spec = compose_model("timm", "model.name=convnext_atto")
    assert spec.name == "convnext_atto"
    assert spec.arguments == {"model_name": "convnext_atto"}


@pytest.mark.parametrize(
    ("name", "model_name"),
    [("deit_small", "deit_small_patch16_224"), ("efficientnet_lite0", "tf_efficientnet_lite0")],
)
def test_conf_names_the_right_variant(name: str, model_name: str) -> None:
    """Where timm has several networks of one name, the file names the one that the public weights fit."""
    assert compose_model(name).arguments["model_name"] == model_name


# ------------------------------------------------------------------------------------------ cifar_resnet


@pytest.mark.parametrize(
    ("depth", "num_params"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)]
)
def test_cifar_resnet_has_the_known_size(depth: int, num_params: int) -> None:
    """The numbers of parameters are those of the published networks with option A shortcuts."""
    model = build("cifar_resnet", depth=depth, num_classes=10, image_size=32)
    assert sum(parameter.numel() for parameter in model.parameters()) == num_params


def test_cifar_resnet_refuses_other_depths() -> None:
    """A depth the paper does not have is refused with those it has."""
    with pytest.raises(ValueError, match=r"model\.arguments\.depth=18.*20, 32, 44, 56, 110"):
        build("cifar_resnet", depth=18, num_classes=10, image_size=32)


def test_option_a_shortcut() -> None:
    """A block whose convolutions say nothing passes on every second pixel, between zero channels on either side."""
    block = build("cifar_resnet", depth=20, num_classes=10, image_size=32).layer2[0].eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.rand(2, 16, 8, 8)
    y = block(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_cifar_resnet_exports() -> None:
    """torch.export takes the network as it is, and the exported one says the same."""
    model = build("cifar_resnet", depth=20, num_classes=10, image_size=32).eval()
    images = torch.randn(2, 3, 32, 32)
    exported = torch.export.export(model, (images,), strict=False).module()
    assert torch.equal(exported(images), model(images))


@pytest.mark.parametrize(
    ("family", "arguments"), [("cifar_resnet", {"depth": 20}), ("timm", {"model_name": "test_vit"})]
)
def test_build_follows_the_seed(family: str, arguments: dict[str, object]) -> None:
    """The same torch seed gives the same weights, another seed others; a mapping and keywords mean the same."""
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(logits(build(family, arguments, num_classes=5, image_size=32)))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


# ------------------------------------------------------------------------------------------ timm


def test_timm_suggests_names() -> None:
    """A misspelt network is refused with the nearest names."""
    with pytest.raises(ValueError, match=r"resnet5o: timm has no such network; did you mean resnet50"):
        build("timm", model_name="resnet5o", num_classes=10, image_size=None)


def test_timm_refuses_unknown_tags() -> None:
    """A tag of weights that do not exist is refused with those that do."""
    with pytest.raises(ValueError, match=r"no weights tagged nope; .*resnet18\.a1_in1k"):
        build("timm", model_name="resnet18.nope", num_classes=10, image_size=None)


def test_timm_refuses_unknown_arguments() -> None:
    """An argument the architecture does not take is named, with the network it was meant for."""
    with pytest.raises(ValueError, match=r"timm cannot build test_resnet with .*wings"):
        build("timm", model_name=SMALL, num_classes=10, image_size=None, wings=2)


@pytest.mark.parametrize(("model_name", "num_tokens"), [("deit_tiny_patch16_224", 17), ("test_vit", 17)])
def test_timm_passes_the_size_to_those_who_take_it(model_name: str, num_tokens: int) -> None:
    """A vision transformer is built for the size asked for: 16 patches of 64 x 64 pixels and the class token."""
    with torch.device("meta"):
        model = build("timm", model_name=model_name, num_classes=10, image_size=64)
    assert model.pos_embed.shape[1] == num_tokens


def test_a_size_among_the_arguments_wins() -> None:
    """Whatever the size of the data is."""
    with torch.device("meta"):
        model = build("timm", {"img_size": 32}, model_name="test_vit", num_classes=10, image_size=64)
    assert model.pos_embed.shape[1] == 5


def test_timm_keeps_the_size_from_those_who_do_not() -> None:
    """A convolutional network without an image size is built for any size and runs at the one asked for."""
    assert logits(build("timm", model_name=SMALL, num_classes=3, image_size=48), 48).shape == (2, 3)


def test_timm_gives_its_own_preprocessing() -> None:
    """Statistics, crop and size come from timm's records: EfficientNet-Lite0 wants mean and std of one half."""
    with torch.device("meta"):
        prepared = compose_model("efficientnet_lite0", "model.pretrained=false").prepare(
            1000, None, trains_from_scratch=True
        )
    assert prepared.mean == prepared.std == (0.5, 0.5, 0.5)
    assert (prepared.image_size, prepared.interpolation, prepared.crop_fraction) == (224, "bicubic", 0.875)


# ------------------------------------------------------------------------------------------ checkpoints


def test_checkpoint_wins_and_is_exact(tmp_path: Path) -> None:
    """A checkpoint is loaded tensor by tensor, before anybody asks for pretrained weights."""
    torch.manual_seed(0)
    source = build("cifar_resnet", depth=20, num_classes=10, image_size=32)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    prepared = cifar_spec(checkpoint=str(tmp_path / "weights.safetensors"), pretrained=True).prepare(
        10, 32, trains_from_scratch=True
    )
    assert torch.equal(logits(prepared.model), logits(source))
    assert prepared.weights == "checkpoint"
    assert str(tmp_path) in prepared.reason


def test_checkpoint_missing() -> None:
    """A checkpoint that is not there is named."""
    with pytest.raises(FileNotFoundError, match=r"model\.checkpoint=nowhere\.safetensors"):
        cifar_spec(checkpoint="nowhere.safetensors").prepare(10, 32, trains_from_scratch=True)


class Code:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.system, ("echo this must not be run > ran",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], r"there is no state dict in this file \(list\)"),
        (
            {"network": {"a": torch.ones(1)}, "epoch": 3},
            r"\(its entries are network, epoch\); it is looked for .*model_ema",
        ),
        ({"state_dict": Code()}, r"objects that code would have to make \((posix|nt)\.system\), and no code .* is run"),
        ({"state_dict": {"a": torch.ones(1)}, "path": Path()}, r"have to make \(pathlib\..*Path\)"),
    ],
)
@pytest.mark.parametrize("is_archive", [True, False])
def test_checkpoint_of_another_format(
    content: object, words: str, is_archive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that holds no tensors, or code, is refused by name, and the code is not run."""
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=is_archive)
    with pytest.raises(ValueError, match=rf"weights\.pth: .*{words}"):
        cifar_spec(checkpoint=str(tmp_path / "weights.pth")).prepare(10, 32, trains_from_scratch=True)
    assert not (tmp_path / "ran").exists()


def save_tensors(state: dict[str, torch.Tensor], path: Path) -> None:
    save_file(state, path)


def save_as_before_archives(state: dict[str, torch.Tensor], path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("save", "words"),
    [
        (torch.save, "a file of torch.save that is damaged or cut short"),
        (save_as_before_archives, "a file of torch.save that is damaged or cut short"),
        (save_tensors, "a safetensors file that is damaged or cut short"),
        (lambda _, path: path.write_text("<!DOCTYPE html>" * 99), "neither a safetensors file nor one of torch.save"),
        (lambda state, path: zipfile.ZipFile(path, "w").writestr("a.txt", "b" * 99), "damaged"),
    ],
)
def test_checkpoint_that_is_cut_short(save: Callable[..., None], words: str, tmp_path: Path) -> None:
    """As a download leaves it that was stopped: told from a file of something else."""
    save(build("cifar_resnet", depth=20, num_classes=10).state_dict(), tmp_path / "weights.pth")
    whole = (tmp_path / "weights.pth").read_bytes()
    (tmp_path / "weights.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"weights\.pth: .*{words}"):
        cifar_spec(checkpoint=str(tmp_path / "weights.pth")).prepare(10, 32, trains_from_scratch=True)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    ("entry", "change", "words"),
    [
        (
            "linear.weight",
            lambda x: (127 * x).to(torch.int8),
            r"another kind .* 1 in all: linear.weight is torch.int8, not",
        ),
        ("linear.weight", lambda x: x.to(torch.complex64), r"linear.weight is torch.complex64, not torch.float32"),
        (
            "linear.weight",
            lambda x: x.to_sparse(),
            r"number by number, 1 in all: linear.weight is torch.sparse_coo; save",
        ),
        ("linear.weight", lambda x: x.to("meta"), r"linear.weight is on the meta device; save"),
        ("linear.bias", lambda x: x.sum(), r"other shapes .* linear.bias is \(\), not \(10,\)"),
    ],
)
def test_checkpoint_of_other_numbers(
    entry: str, change: Callable[[torch.Tensor], torch.Tensor], words: str, tmp_path: Path
) -> None:
    """What would be cast to something else without a word, or could not be copied, is named."""
    state = build("cifar_resnet", depth=20, num_classes=10).state_dict()
    torch.save({**state, entry: change(state[entry])}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=words):
        cifar_spec(checkpoint=str(tmp_path / "weights.pth")).prepare(10, 32, trains_from_scratch=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_checkpoint_of_another_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    """It is the same kind of number; counters stay whole."""
    state = build("cifar_resnet", depth=20, num_classes=10).state_dict()
    save_file(
        {name: x.to(dtype) if x.is_floating_point() else x for name, x in state.items()}, tmp_path / "w.safetensors"
    )
    prepared = cifar_spec(checkpoint=str(tmp_path / "w.safetensors")).prepare(10, 32, trains_from_scratch=True)
    assert torch.equal(prepared.model.state_dict()["linear.weight"], state["linear.weight"].to(dtype).float())


@pytest.mark.parametrize(
    ("first", "second"), [("model.", "model_ema.module."), ("module.", "model."), ("student.", "teacher.")]
)
def test_checkpoint_of_two_networks(first: str, second: str, tmp_path: Path) -> None:
    """Nothing says which of them is meant, unless they are the same one."""
    state = build("cifar_resnet", depth=20, num_classes=10).state_dict()
    other = {second + name: tensor + 1 for name, tensor in state.items()}
    save_file({first + name: tensor for name, tensor in state.items()} | other, tmp_path / "weights.safetensors")
    with pytest.raises(
        ValueError, match=rf"more than once, .*as {min(first, second)}\* and as {max(first, second)}\*,"
    ):
        cifar_spec(checkpoint=str(tmp_path / "weights.safetensors")).prepare(10, 32, trains_from_scratch=True)


def lightning_form(state: dict[str, torch.Tensor]) -> dict[str, object]:
    around = {f"model.{name}": tensor for name, tensor in state.items()} | {"criterion.weight": torch.ones(10)}
    return {"state_dict": around, "epoch": 3, "optimizer_states": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    "form",
    [
        lambda state: state,
        lightning_form,
        lambda state: {"model": {f"module.{name}": tensor for name, tensor in state.items()}, "best_acc1": 92.5},
        lambda state: {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
        lambda state: {"net": state, "acc": 91.0},
        lambda state: {"model": {name: tensor + 1 for name, tensor in state.items()}, "model_ema": state, "epoch": 3},
        lambda state: {"state_dict": {"conv1.weight": torch.zeros(1)}, "state_dict_ema": state, "arch": "resnet20"},
        lambda state: {"model": state, "model_ema": None},
        lambda state: {"state_dict": state, "args": argparse.Namespace(lr=0.1, opt="sgd"), "version": 2},
        lambda state: {prefix + name: tensor for prefix in ("net.", "model.") for name, tensor in state.items()},
        lambda state: {
            **{f"module.{name}": tensor[:1] for name, tensor in state.items()},
            **{f"model.{name}": tensor for name, tensor in state.items()},
        },
    ],
)
def test_checkpoints_of_torch(form: Callable[[dict[str, torch.Tensor]], Mapping[str, Any]], tmp_path: Path) -> None:
    """Training scripts wrap a state dict in many ways, old ones have no counters of batches, and averages go first."""
    torch.manual_seed(3)
    source = build("cifar_resnet", depth=20, num_classes=10)
    state = {name: tensor for name, tensor in source.state_dict().items() if "num_batches_tracked" not in name}
    saved = form(state)
    torch.save(saved, tmp_path / "weights.ckpt")
    prepared = cifar_spec(checkpoint=str(tmp_path / "weights.ckpt")).prepare(10, 32, trains_from_scratch=True)
    assert torch.equal(logits(prepared.model), logits(source))
    entry = [name for name in ("model_ema", "state_dict_ema") if saved.get(name)]
    assert prepared.reason.partition("weights.ckpt")[2] == "".join(f" ({name}, the running mean)" for name in entry)


def test_a_folder_is_no_file_of_weights(tmp_path: Path) -> None:
    """What it is, and which files in it could be meant."""
    (tmp_path / "epoch=3.ckpt").touch()
    with pytest.raises(IsADirectoryError, match=r"this is a folder, .* one file .*; in it there are epoch=3\.ckpt\. "):
        cifar_spec(checkpoint=str(tmp_path)).prepare(10, 32, trains_from_scratch=True)


def test_a_recipe_of_a_package_that_is_not_here() -> None:
    """Says so, and what can be done, instead of naming an option that nobody gave."""
    with pytest.raises(
        ValueError, match=r"made with model\.family=theirs, which is of another package .* install that"
    ):
        rebuild({"family": "theirs", "arguments": {}})


@pytest.mark.parametrize(
    ("family", "arguments"),
    [
        ("timm", {"checkpoint_path": "evil.pth"}),
        ("timm", {"pretrained_cfg_overlay": {"url": "http://127.0.0.1:9/evil"}}),
        ("timm", {"pretrained": True}),
        ("cifar_resnet", {"file": "evil.pth"}),
    ],
)
def test_recipes_name_architectures_only(family: str, arguments: dict[str, object]) -> None:
    """What came with a folder from anywhere cannot ask for files or addresses."""
    name = {"timm": {"model_name": SMALL}, "cifar_resnet": {"depth": 20}}[family]
    good = {"family": family, "arguments": {**name, "num_classes": 10, "image_size": 32}}
    assert logits(rebuild(good)).shape == (2, 10)
    with pytest.raises(ValueError, match=rf"asks the family {family} for {next(iter(arguments))}"):
        rebuild({**good, "arguments": good["arguments"] | arguments})
    with pytest.raises(ValueError, match="family, arguments and settings of modules, and nothing else"):
        rebuild({**good, "more": 1})
    if family == "timm":
        with pytest.raises(ValueError, match=rf"model\.arguments\.{next(iter(arguments))}: choose weights by"):
            build(**{**good, "arguments": good["arguments"] | arguments})


def test_configurations_of_transformers_fetch_nothing() -> None:
    """Code, kernels and quantisers that a configuration names are left out."""
    pytest.importorskip("transformers")
    config = {"model_type": "opt", "hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config |= {"vocab_size": 20, "max_position_embeddings": 16, "word_embed_proj_dim": 16}
    evil = {"_attn_implementation": "evil/kernels", "auto_map": {"AutoModelForCausalLM": "evil--code.Model"}}
    evil |= {"quantization_config": {"quant_method": "evil"}}
    for more in ({}, {"class_name": "OPTModel"}):
        model = rebuild({"family": "huggingface", "arguments": {"config": config | evil, **more}})
        assert not any("evil" in str(value) for value in vars(model.config).values())
    arguments = {"model_type": "timm_wrapper", "architecture": SMALL, "model_args": {"checkpoint_path": "evil.pth"}}
    model = rebuild({"family": "huggingface", "arguments": {"config": arguments, "auto_class": "AutoModel"}})
    assert model.config.model_args == {}
    with pytest.raises(ValueError, match="architecture=hf-hub:evil/network is an address"):
        build("huggingface", config={**arguments, "architecture": "hf-hub:evil/network"}, auto_class="AutoModel")


@pytest.mark.parametrize("name", ["os.system", "AutoModel", "OPTConfig", "models", "no_such_class", 3])
def test_classes_of_recipes_are_networks_that_transformers_exports(name: object) -> None:
    """Nothing else is looked up, much less imported."""
    pytest.importorskip("transformers")
    arguments = {"config": {"model_type": "opt"}, "class_name": name}
    with pytest.raises(ValueError, match=f"class_name must be that of a network .* found {name!r}"):
        rebuild({"family": "huggingface", "arguments": arguments})


def test_configurations_put_together_from_others_are_built() -> None:
    """They have no defaults; which token a text begins with stands beside the parts."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    part = transformers.BertConfig(vocab_size=20, max_position_embeddings=16, **sizes)
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(part, part)
    config.decoder_start_token_id = 7
    plain = json.loads(config.to_json_string(False))
    model = build("huggingface", config=plain, class_name="EncoderDecoderModel")
    assert type(model) is transformers.EncoderDecoderModel
    assert model.config.decoder_start_token_id == 7
    assert model.config.encoder.hidden_size == model.config.decoder.hidden_size == 16


def test_infinite_numbers_of_a_configuration_are_read() -> None:
    """As transformers writes them, in JSON that has none."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_heads": 4, "head_dim": 8, "state_size": 4, "num_hidden_layers": 1, "n_groups": 1}
    config = transformers.Mamba2Config(vocab_size=20, **sizes)
    plain = json.loads(config.to_json_string(False))
    assert plain["time_step_limit"] == [0.0, {"__float__": "Infinity"}]
    assert tuple(build("huggingface", config=plain).config.time_step_limit) == (0.0, float("inf"))


@pytest.mark.parametrize(
    ("arguments", "num_classes", "message"),
    [
        ({"depth": 32}, 10, r": 72 unexpected \(layer1\.3\.bn1\.bias, .*, \.\.\.\)"),
        ({"depth": 20}, 7, r"its head has 7 classes, the data has 10"),
    ],
)
def test_checkpoint_of_another_network(
    tmp_path: Path, arguments: dict[str, int], num_classes: int, message: str
) -> None:
    """Keys of another depth and heads of other classes are told apart and named."""
    other = build("cifar_resnet", arguments, num_classes=num_classes, image_size=32)
    save_file(other.state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=message):
        cifar_spec(checkpoint=str(tmp_path / "weights.safetensors")).prepare(10, 32, trains_from_scratch=True)


def test_checkpoint_of_other_shapes(tmp_path: Path) -> None:
    """Tensors of other shapes are named with both shapes, and the model is left alone."""
    model = build("cifar_resnet", depth=20, num_classes=10, image_size=32)
    tensors = {**model.state_dict(), "layer1.0.conv1.weight": torch.zeros(8, 16, 3, 3)}
    save_file(tensors, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"1 in all: layer1\.0\.conv1\.weight is \(8, 16, 3, 3\), not \(16,"):
        cifar_spec(checkpoint=str(tmp_path / "weights.safetensors")).prepare(10, 32, trains_from_scratch=True)


def test_checkpoint_missing_keys(tmp_path: Path) -> None:
    """Keys that the file lacks are counted and the first of them shown."""
    tensors = build("cifar_resnet", depth=20, num_classes=10, image_size=32).state_dict()
    del tensors["linear.bias"]
    save_file(tensors, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"1 missing \(linear\.bias\); choose the model"):
        cifar_spec(checkpoint=str(tmp_path / "weights.safetensors")).prepare(10, 32, trains_from_scratch=True)


def test_normalize_wins_over_the_family() -> None:
    """Statistics given with the model replace the family's."""
    statistics = {"mean": [0.1, 0.2, 0.3], "std": [1, 2, 3]}
    prepared = cifar_spec(normalize=statistics).prepare(10, None, trains_from_scratch=True)
    assert (prepared.mean, prepared.std, prepared.image_size) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0), 32)


@pytest.mark.parametrize("statistics", [{"mean": [0.5] * 3}, {"mean": [0.5], "std": [0.5]}])
def test_normalize_must_be_whole(statistics: dict[str, list[float]]) -> None:
    """Statistics that are not three numbers each are refused."""
    with pytest.raises(ValueError, match=r"model\.normalize=.*three numbers"):
        cifar_spec(normalize=statistics).prepare(10, 32, trains_from_scratch=True)


# ------------------------------------------------------------------------------------------ pretrained weights


def test_family_without_pretrained_weights() -> None:
    """Asking a family for weights it does not have says what to do instead."""
    with pytest.raises(ValueError, match=r"cifar_resnet has no weights to fetch; set model\.checkpoint=PATH"):
        cifar_spec(pretrained=True).prepare(10, 32, trains_from_scratch=True)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("offline", [False, True])
def test_no_hub_fails_fast(offline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a hub, data that cannot be trained on from scratch get one clear sentence, soon."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    start = time.monotonic()
    with pytest.raises(ValueError, match="no pretrained weights for test_resnet") as raised:
        small_spec().prepare(1000, None, trains_from_scratch=False)
    assert time.monotonic() - start < 10
    for part in (str(tmp_path), SMALL_REPOSITORY, "model.checkpoint=PATH", "model.pretrained=false"):
        assert part in str(raised.value)
    assert ("HF_HUB_OFFLINE is set" if offline else "127.0.0.1") in str(raised.value)


@pytest.mark.usefixtures("cache")
def test_no_hub_falls_back_to_training() -> None:
    """Without a hub, data that can be trained on from scratch get random weights, and the reason is told."""
    start = time.monotonic()
    prepared = small_spec().prepare(10, 32, trains_from_scratch=True)
    assert time.monotonic() - start < 10
    assert prepared.weights == "random"
    assert "does not answer" in prepared.reason
    assert logits(prepared.model).shape == (2, 10)


def test_cached_weights_need_no_hub(filled_cache: dict[str, torch.Tensor]) -> None:
    """Weights in the cache are used whole when the classes are theirs, though no hub answers."""
    prepared = small_spec().prepare(1000, None, trains_from_scratch=False)
    state = prepared.model.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in filled_cache.items())
    assert prepared.weights == "pretrained"
    assert SMALL_REPOSITORY in prepared.reason


def test_cached_weights_with_a_new_head(filled_cache: dict[str, torch.Tensor]) -> None:
    """For other classes everything but the head comes from the cache, and training must come first."""
    prepared = small_spec().prepare(10, 32, trains_from_scratch=True)
    state = prepared.model.state_dict()
    body = [key for key in filled_cache if not key.startswith("fc.")]
    assert all(torch.equal(state[key], filled_cache[key]) for key in body)
    assert state["fc.weight"].shape[0] == 10
    assert prepared.weights == "backbone"
    assert "new head of 10 classes" in prepared.reason


@pytest.mark.usefixtures("cache")
def test_network_that_was_never_trained() -> None:
    """A network of which timm has no weights says so instead of asking the hub."""
    spec = small_spec(arguments={"model_name": "resnet200"})
    with pytest.raises(ValueError, match="timm has no weights of resnet200 on the hub; set model"):
        spec.prepare(1000, None, trains_from_scratch=False)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def hub_without_files() -> Iterator[str]:
    """The address of a server that answers every question with 404."""

    class NotFound(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()

        do_GET = do_HEAD  # noqa: N815 -- the library's names

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), NotFound) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_silent_hub_is_not_waited_for(silent_server: str) -> None:
    """A hub that takes the connection and says nothing is given up after the patience allowed."""
    start = time.monotonic()
    assert not hub.answers(silent_server, patience_seconds=0.5)
    assert time.monotonic() - start < 3


def test_hub_that_refuses_the_file(cache: Path, hub_without_files: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that answers but does not have the file ends in the same kind of error, with its reason."""
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub_without_files + "/{repo_id}/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "ENDPOINT", hub_without_files)
    assert hub.answers(hub_without_files)
    with pytest.raises(WeightsNotFoundError, match=r"could not be downloaded: .*404"):
        hub.fetch(SMALL_REPOSITORY)
    assert not list(cache.rglob("*.safetensors"))


# ------------------------------------------------------------------------------------------ real weights


@pytest.mark.realdata
def test_real_cifar_checkpoint_scores(data_dir: Path) -> None:
    """The public ResNet-56 loads strictly and has 88.6 % on the JPEG copies of CIFAR-10's test images."""
    from snp.data.cifar10 import Cifar10

    checkpoint = data_dir.parent / "models" / "cifar10_resnet56.safetensors"
    spec = compose_model("cifar_resnet56", f"model.checkpoint={checkpoint}")
    data = Cifar10(str(data_dir / "cifar10"), batch_size=500)
    prepared = spec.prepare(data.num_classes, data.image_size, trains_from_scratch=data.trains_from_scratch)
    data.configure(prepared.image_size, prepared.mean, prepared.std, prepared.interpolation, prepared.crop_fraction)
    model = prepared.model.eval()
    with torch.no_grad():
        right = sum((model(images).argmax(1) == labels).sum().item() for images, labels in data.test_dataloader())
    assert right / 5000 == pytest.approx(0.886, abs=0.0015)
    assert prepared.weights == "checkpoint"
