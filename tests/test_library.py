"""Does one call prune, leave what it was given alone, say what is wrong, and come back from disk?"""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snp
from snp import models
from snp.core import cuts, orderings
from snp.library import prune_streamed
from snp.plan import planners
from snp.settings import PruneSettings
from snp.speed.network import macs
from tests import networks
from tests.audit import outputs

CASES = {"cnn": (networks.cnn, networks.images), "attention": (networks.attention, networks.tokens)}


def case(name: str, count: int = 96) -> tuple[nn.Module, Tensor]:
    build, batches = CASES[name]
    return build(), batches(count)


def kept(result: snp.PruneResult) -> dict[str, list[int]]:
    return {decision.group.name: decision.kept.tolist() for decision in result.plan.groups}


COMBINATIONS = [
    *(("snp", ordering, cut) for ordering in orderings.names() for cut in cuts.names()),
    *((planner, "zca", cut) for planner in planners.names() if planner != "snp" for cut in cuts.names()),
]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("planner", "ordering", "cut"), COMBINATIONS)
def test_every_combination_prunes_within_the_budget(name: str, planner: str, ordering: str, cut: str) -> None:
    """The small network runs, costs what the plan says, fits the budget, and equals the masked one."""
    model, batch = case(name)
    result = snp.prune(model, batch.split(32), planner=planner, ordering=ordering, cut=cut, target_macs=0.8)
    plan = result.plan
    assert result.check < 1e-4
    assert plan.macs["pruned"] == macs(result.model, batch[:1]) <= 0.8 * plan.macs["dense"]
    assert plan.macs["dense"] == macs(model.eval(), batch[:1])
    assert plan.params["pruned"] == sum(parameter.numel() for parameter in result.model.parameters())
    assert outputs(result.model, batch).shape == outputs(model, batch).shape


def test_model_given_is_not_changed() -> None:
    """State, training flags, gradients, hooks and requires_grad stay; the result is in the model's own mode."""
    model, batch = case("cnn")
    model.train()
    model.norm.eval()
    model.head.bias.requires_grad_(False)
    state, flags = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    result = snp.prune(model, [batch], target_macs=0.6)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert result.model.training
    assert not result.model.head.bias.requires_grad
    assert not any(module._forward_pre_hooks for module in result.model.modules())


def test_the_same_call_gives_the_same_bits() -> None:
    """Two runs agree in plan and weights, whatever the global seed, random orders included."""
    model, batch = case("cnn")
    for ordering in ("zca", "random"):
        first = snp.prune(model, batch.split(32), ordering=ordering, target_macs=0.5)
        torch.manual_seed(99)
        second = snp.prune(model, batch.split(32), ordering=ordering, target_macs=0.5)
        assert first.plan.to_json() == second.plan.to_json()
        pairs = zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def test_global_random_state_is_left_alone() -> None:
    """A prune draws from its own generator only."""
    model, batch = case("cnn")
    before = torch.get_rng_state()
    snp.prune(model, [batch], ordering="random", target_macs=0.5)
    assert torch.equal(torch.get_rng_state(), before)


def test_random_state_is_left_alone_where_layers_are_made_anew(tmp_path: Path) -> None:
    """Attention is written in plain layers for cuts in it, and those are drawn at random before they get weights."""
    torch.manual_seed(0)
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1, enable_nested_tensor=False
    )
    batch, before = torch.randn(8, 5, 16), torch.get_rng_state()
    options = {"structures": ("ffn", "vo"), "target_units": 0.5}
    snp.inspect(model, batch, structures=("ffn", "vo"))
    snp.save(snp.prune(model, [batch], progress=False, **options), tmp_path)
    snp.load(tmp_path, model)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("options", [{}, {"calibration": "joint", "reconstruct": False}])
def test_padded_samples_of_torchs_encoder(options: dict[str, Any]) -> None:
    """As it comes it gives its layers nested tensors of them, where nobody learns from it."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
            self.head = nn.Linear(16, 3)

        def forward(self, steps: Tensor, padding: Tensor) -> Tensor:
            found: Tensor = self.head(self.layers(steps, src_key_padding_mask=padding)[:, 0])
            return found

    torch.manual_seed(0)
    padding = torch.zeros(16, 7, dtype=torch.bool)
    padding[::2, -2:] = True
    batch = {"steps": torch.randn(16, 7, 16), "padding": padding}
    result = snp.prune(Encoder(), [batch], target_macs=0.9, progress=False, **options)
    assert result.plan.macs["pruned"] <= 0.9 * result.plan.macs["dense"]
    assert result.check < 1e-6
    assert torch.backends.mha.get_fastpath_enabled()


def test_every_form_of_batches_gives_the_same_plan() -> None:
    """Tensors, pairs with labels, lists, generators and loaders are the same samples."""
    model, batch = case("cnn")
    labels = torch.zeros(len(batch))
    parts = list(batch.split(32))

    def generated() -> Iterator[Tensor]:
        yield from parts

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(batch, labels), batch_size=32)
    forms: list[Any] = [
        parts,
        generated(),
        [(part, labels) for part in parts],
        [[part, labels] for part in parts],
        loader,
    ]
    plans = [kept(snp.prune(model, form, target_macs=0.5)) for form in forms]
    assert all(plan == plans[0] for plan in plans)
    assert snp.prune(model, loader, target_macs=0.5).plan.settings["samples"] == len(batch)


class Named(nn.Module):
    """Two inputs by name, given as floats: [N, 6] each -> [N, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(24, 4)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(torch.cat([self.left(left).relu(), self.right(right).relu()], dim=1))}


def test_batches_of_named_inputs() -> None:
    """Mappings are keyword arguments; labels in them are left out."""
    torch.manual_seed(0)
    batch = {"left": torch.randn(40, 6), "right": torch.randn(40, 6), "labels": torch.zeros(40)}
    other = {name: value + 1 for name, value in batch.items()}
    result = snp.prune(Named(), [batch, other], target_units=0.5, cut="uniform")
    assert {name: len(units) for name, units in kept(result).items()} == {"left": 6, "right": 6}
    assert result.plan.settings["samples"] == 80


def test_small_batches_and_a_single_sample_do() -> None:
    """Neither a first batch of one nor a last one of another size matters."""
    model, batch = case("cnn", count=300)
    model, batch = model.double(), batch.double()  # in float32, rounding differs by batch and decides near ties
    whole = kept(snp.prune(model, [batch], target_macs=0.5))
    assert kept(snp.prune(model, [batch[:1], batch[1:4], batch[4:]], target_macs=0.5)) == whole
    assert snp.prune(model, [batch[:1]], target_macs=0.5).check < 1e-4


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("ordering", ["zca", "random"])
def test_reconstruction_beats_deletion_on_the_calibration_data(name: str, ordering: str) -> None:
    """With the same units cut, folding leaves much less error at the output."""
    model, batch = case(name, count=400)
    options = {"ordering": ordering, "cut": "uniform", "target_units": 0.7}
    dense = outputs(model.eval(), batch)
    folded = snp.prune(model, [batch], **options)
    deleted = snp.prune(model, [batch], reconstruct=False, **options)
    assert kept(folded) == kept(deleted)
    error = (outputs(folded.model, batch) - dense).square().mean()
    assert float(error) < 0.7 * float((outputs(deleted.model, batch) - dense).square().mean())


def test_duplicate_units_are_removed_without_any_loss() -> None:
    """Units that are copies of others go first, and the rest takes over exactly what they did."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 4)).eval()
    with torch.no_grad():
        model[0].weight[12:] = 2 * model[0].weight[:12]
        model[0].bias[12:] = 2 * model[0].bias[:12]
    batch = torch.randn(300, 6)
    result = snp.prune(model, [batch], ordering="pivoted", target_var=1.0, ridge=0.0)
    assert result.model[0].out_features == 12
    torch.testing.assert_close(result.model(batch), model(batch), rtol=1e-4, atol=1e-5)


class Loop(nn.Module):
    """A convolution called at two sizes: [N, 3, 24, 24] -> [N, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 12, 3, padding=1), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.body(self.stem(x).relu()).relu(), 2)
        return self.head(self.body(x).relu().mean((2, 3)))


def test_layer_called_at_two_sizes_is_pruned() -> None:
    """A shared layer is measured at every call, whatever the size of its input there."""
    torch.manual_seed(0)
    result = snp.prune(Loop(), [torch.randn(8, 3, 24, 24)], target_macs=0.6)
    assert result.check < 1e-4


def test_streams_are_cut_only_on_request() -> None:
    """Residual streams are listed as frozen with the option that cuts them, and cut with it."""
    model, batch = case("cnn")
    inside = snp.prune(model, [batch], target_macs=0.7)
    everything = snp.prune(model, [batch], target_macs=0.7, streams=True)
    assert set(kept(everything)) - set(kept(inside)) == {"stem"}
    assert "prune.streams=true" in inside.plan.frozen["stem"]


def test_ignored_groups_stay_whole() -> None:
    """Patterns name groups; what they name is listed as frozen."""
    model, batch = case("cnn")
    result = snp.prune(model, [batch], target_macs=0.95, ignore=("exp*",))
    assert "expand" not in kept(result)
    assert result.model.expand.out_channels == 24
    assert result.plan.frozen["expand"] == "named by prune.ignore"


def test_settings_object_and_options_together() -> None:
    """Options replace those of the object."""
    model, batch = case("cnn")
    settings = PruneSettings(target_macs=0.8, ordering="variance")
    result = snp.prune(model, [batch], settings, ordering="saw")
    assert result.plan.settings["ordering"] == "saw"
    assert result.plan.settings["target"] == {"macs": 0.8}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda model, batch: snp.prune("x", [batch]), "model must be a torch.nn.Module, found 'x'"),
        (lambda model, batch: snp.inspect(None, batch), "model must be a torch.nn.Module, found None"),
        (
            lambda model, batch: snp.prune(model, [batch], {"a": 1}),
            "settings must be a snp.PruneSettings, found {'a': 1}",
        ),
        (lambda model, batch: snp.inspect(model, batch, 0.5), "settings must be a snp.PruneSettings, found 0.5"),
        (lambda model, batch: prune_streamed(model, [batch], {}), "settings must be a snp.PruneSettings, found {}"),
        (lambda model, batch: snp.prune(model, 5), "batches must be an iterable of batches, such as a data loader"),
        (lambda model, batch: prune_streamed(model, None), "batches must be an iterable of batches"),
        (lambda model, batch: snp.save(model, "never"), "result must be what snp.prune returned, found Sequential"),
    ],
)
def test_arguments_of_another_kind_are_named(call: Callable[[Any, Any], Any], sentence: str) -> None:
    """Before anything is done, with what to give instead."""
    with pytest.raises(TypeError, match=rf"^{re.escape(sentence)}"):
        call(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(4, 4))
    assert not Path("never").exists()


def test_a_network_that_was_trained_on_is_saved(tmp_path: Path) -> None:
    """As the refusal of a network alone says."""
    model, batches = case("cnn")
    result = snp.prune(model, batches.split(32), target_macs=0.5, preset="quick", progress=False)
    trained = copy.deepcopy(result.model)
    with torch.no_grad():
        next(trained.parameters()).add_(1.0)
    snp.save(replace(result, model=trained), tmp_path)
    assert torch.equal(next(snp.load(tmp_path, model).parameters()), next(trained.parameters()))


def test_empty_batches_are_refused() -> None:
    """No batch at all, as a list or an exhausted generator."""
    for empty in ([], iter(())):
        with pytest.raises(ValueError, match="batches is empty"):
            snp.prune(networks.cnn(), empty)


def test_unknown_option_names_the_one_that_was_meant() -> None:
    """A typing error is answered with the name that was meant."""
    with pytest.raises(ValueError, match=r"no option prune.target_mac; did you mean prune.target_macs"):
        snp.prune(networks.cnn(), [networks.images()], target_mac=0.5)


@pytest.mark.parametrize("wrong", [3, "images", [1, 2], None])
def test_batches_of_another_kind_are_refused(wrong: Any) -> None:
    """The message says which kinds there are."""
    with pytest.raises(ValueError, match="batches must yield"):
        snp.prune(networks.cnn(), [wrong])


@pytest.mark.parametrize("where", ["first batch", "later batch", "weights"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(where: str, value: float) -> None:
    """NaN and infinity are named as what they are, whether they come with the data or with the model."""
    model, batch = case("cnn")
    parts = list(batch.clone().split(32))
    if where == "weights":
        with torch.no_grad():
            model.expand.weight[2, 3] = value
    else:
        parts[0 if where == "first batch" else 2][1, 1, 2, 2] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        snp.prune(model, parts, target_macs=0.8)


def test_unreachable_budget_names_what_is_reachable() -> None:
    """The message has the target and the share that can be had, and that share can indeed be had."""
    model, batch = case("cnn")
    with pytest.raises(ValueError, match=r"prune\.target_macs=0\.001 cannot be reached") as caught:
        snp.prune(model, [batch], target_macs=0.001)
    assert "prune.streams=true" in str(caught.value)
    assert "prune.structures=[ffn,vo,qk]" in str(caught.value)
    reachable = float(str(caught.value).split("smallest, ")[1].split(" ")[0])
    assert snp.prune(model, [batch], target_macs=reachable + 0.001).check < 1e-4


def test_unreachable_budget_is_refused_before_anything_is_measured() -> None:
    """Shapes say so: of the batches only those that show what the network reads are looked at."""
    model, batch = case("cnn")
    looked = iter([*batch.split(32)] * 40)
    with pytest.raises(ValueError, match=r"prune\.target_params=0\.001 cannot be reached"):
        snp.prune(model, looked, target_params=0.001)
    assert len(list(looked)) > 30


def test_network_without_anything_to_cut_says_why() -> None:
    """The reasons of the analysis are in the message."""
    with pytest.raises(ValueError, match=r"nothing in Sequential can be cut: 0.weight: an output"):
        snp.prune(nn.Sequential(nn.Linear(6, 4)), [torch.randn(4, 6)])


def test_network_that_cannot_be_exported_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    """The name of the model and what to try, and not a line of its graph."""

    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(ValueError, match="Branching cannot be exported"):
        snp.prune(Branching(), [torch.randn(4, 6)])
    assert "def forward" not in capfd.readouterr().err


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
@pytest.mark.parametrize("made", [torch.jit.script, lambda model: torch.jit.trace(model, torch.zeros(2, 8))])
def test_programs_of_torchscript_are_refused(made: Callable[[nn.Module], nn.Module]) -> None:
    model = made(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval())
    with pytest.raises(ValueError, match=r"Sequential is scripted or traced.*give the network it was made from"):
        snp.prune(model, [torch.randn(16, 8)], target_units=0.5)


def test_modules_of_exported_programs_are_refused(tmp_path: Path) -> None:
    """No layer of theirs is called, and they have one mode: by every call, with what to give instead."""
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    batch = torch.randn(16, 8)
    model = torch.export.export(network, (batch,)).module()
    said = r"^the model is the module of a torch.export program: give the network that was exported"
    with pytest.raises(ValueError, match=said):
        snp.prune(model, [batch], target_units=0.5)
    with pytest.raises(ValueError, match=said):
        snp.inspect(model, batch)
    with pytest.raises(ValueError, match=said.replace("the model", "1")):
        prune_streamed(nn.Sequential(nn.Linear(8, 8), model), [batch], target_units=0.5, trials=False)
    snp.save(snp.prune(network, [batch], target_units=0.5), tmp_path)
    with pytest.raises(ValueError, match=said):
        snp.load(tmp_path, model)


def test_sizes_that_depend_on_values_are_refused() -> None:
    """Detectors select among candidates; what lies behind a selection has no size that could be planned with."""

    class Selecting(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            scores = super().forward(x)
            return scores[(scores[:, 0] > 0).nonzero()[:, 0]]

    model = Selecting(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    with pytest.raises(ValueError, match=r"aten\.nonzero.*size depends on values.*prune the network without"):
        snp.prune(model, [torch.randn(16, 8)], target_units=0.5)


def test_adapters_on_samples_that_values_select_are_refused() -> None:
    """As X-MOD's languages are selected: what is computed of such samples is as unknown as the selection."""

    class Selecting(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            selected = x[:, 0] > 0
            x[selected] = super().forward(x[selected])
            return x

    model = Selecting(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)).eval()
    with pytest.raises(ValueError, match=r"aten\.index.*size depends on values.*prune the network without"):
        snp.prune(model, [torch.randn(16, 8)], target_units=0.5)


@pytest.mark.parametrize("name", CASES)
def test_saved_network_comes_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    """Plan and weights rebuild the small network from a dense one with any weights."""
    model, batch = case(name)
    result = snp.prune(model, [batch], target_macs=0.8)
    snp.save(result, tmp_path / "deep" / "run")
    other = CASES[name][0]()
    for parameter in other.parameters():
        nn.init.uniform_(parameter)
    back = snp.load(tmp_path / "deep" / "run", model=other)
    assert not back.training
    assert torch.equal(outputs(back, batch), outputs(result.model.eval(), batch))
    assert back.state_dict().keys() == result.model.state_dict().keys()
    assert sorted(path.name for path in (tmp_path / "deep" / "run").iterdir()) == ["plan.json", "pruned.safetensors"]
    assert json.loads((tmp_path / "deep" / "run" / "plan.json").read_text())["format"] == 1


def test_recipe_rebuilds_the_dense_network(tmp_path: Path) -> None:
    """With a recipe the folder is enough."""
    recipe = {"family": "cifar_resnet", "arguments": {"depth": 20, "num_classes": 10, "image_size": 32}}
    batch = torch.randn(8, 3, 16, 16)
    result = snp.prune(models.build(**recipe).eval(), [batch], target_macs=0.6)
    snp.save(result, tmp_path, recipe)
    assert torch.equal(outputs(snp.load(tmp_path), batch), outputs(result.model, batch))


def saved(folder: Path) -> None:
    model, batch = case("cnn")
    snp.save(snp.prune(model, [batch], target_macs=0.8), folder)


def test_missing_files_are_named(tmp_path: Path) -> None:
    """No folder, no plan, no weights, no recipe: each says what is not there."""
    with pytest.raises(ValueError, match="there is no plan at"):
        snp.load(tmp_path / "nowhere", model=networks.cnn())
    saved(tmp_path)
    with pytest.raises(ValueError, match="no recipe"):
        snp.load(tmp_path)
    (tmp_path / "pruned.safetensors").unlink()
    with pytest.raises(ValueError, match=r"there are no weights at .*pruned\.safetensors"):
        snp.load(tmp_path, model=networks.cnn())


@pytest.mark.parametrize("damage", ["cut off", "text", "empty"])
def test_damaged_weights_are_named(tmp_path: Path, damage: str) -> None:
    """A broken file is a ValueError with its path."""
    saved(tmp_path)
    path = tmp_path / "pruned.safetensors"
    content = path.read_bytes()
    path.write_bytes({"cut off": content[: len(content) // 2], "text": b"weights", "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"pruned\.safetensors"):
        snp.load(tmp_path, model=networks.cnn())


def test_load_with_another_network_is_refused(tmp_path: Path) -> None:
    """A plan does not fit a network that it was not made for."""
    saved(tmp_path)
    with pytest.raises(ValueError, match="made for"):
        snp.load(tmp_path, model=networks.attention())


def test_import_is_light() -> None:
    """Who imports snp gets torch, and no framework, tracker or model zoo."""
    code = "import sys, snp; print([m for m in ('hydra', 'pytorch_lightning', 'wandb', 'timm') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_half_precision_model_is_pruned() -> None:
    """A bfloat16 network stays one, and its fit is made in float64."""
    model, batch = case("attention")
    result = snp.prune(model.to(torch.bfloat16), [batch.to(torch.bfloat16)], target_macs=0.8)
    assert {parameter.dtype for parameter in result.model.parameters()} == {torch.bfloat16}


def test_few_samples_are_said_aloud() -> None:
    """The first line of a printed result says so, and only where it is true."""
    few = snp.prune(networks.cnn(), [networks.images()[:8]], target_macs=0.8)
    assert str(few).startswith("Few samples: 8 say little")
    many = replace(few, plan=replace(few.plan, settings={**few.plan.settings, "samples": 64}))
    assert not many.warning


@pytest.mark.parametrize("count", [48, 160])
def test_a_network_is_exported_and_copied_as_rarely_as_may_be(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole copies: the dense network that is worked on, and the small one. Programs: of two samples, and one per size.

    Trials and the fit in sequence share theirs; fits of a part of the samples (folds, allocations) are of another size.
    """
    model, exports, copies = networks.cnn().eval(), [], []
    export, deepcopy = torch.export.export, copy.deepcopy

    def exported(network: nn.Module, args: tuple[Any, ...], *rest: Any, **keywords: Any) -> Any:
        exports.append(len(args[0]))
        return export(network, args, *rest, **keywords)

    def copied(value: Any, memo: Any = None, *rest: Any) -> Any:
        if isinstance(value, type(model)) and not memo:  # else tensors are shared
            copies.append(value)
        return deepcopy(value, memo, *rest) if memo is not None else deepcopy(value)

    monkeypatch.setattr(torch.export, "export", exported)
    monkeypatch.setattr(copy, "deepcopy", copied)
    snp.prune(model, networks.images(count).split(16), target_macs=0.6, progress=False)
    assert len(exports) == len(set(exports)) == 3
    assert exports[0] == 2
    assert len(copies) == 2
