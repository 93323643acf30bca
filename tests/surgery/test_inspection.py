"""Does a dry run name every group truthfully, is what ``ignore`` names left alone, and are outputs never cut?"""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn

import snp
from snp.graph.ignored import ignored_groups
from snp.settings import PruneSettings
from snp.speed.network import macs, num_params
from snp.surgery.subject import survey
from tests import networks
from tests.audit import randomise
from tests.command_line import run_here


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def small(name: str) -> tuple[nn.Module, Tensor]:
    """A network of timm that is quick to analyse, with every parameter drawn anew."""
    torch.manual_seed(0)
    options = {"img_size": 64} if name.startswith("vit") else {}
    return randomise(timm.create_model(name, num_classes=7, **options)).eval(), torch.randn(2, 3, 64, 64)


@pytest.fixture(scope="module")
def resnet() -> tuple[nn.Module, Tensor]:
    return small("resnet10t")


PATTERNS = [
    ["layer3"],  # a module that holds others
    ["layer2.*", "layer4.0.conv2"],  # a wildcard, and one layer
    ["layer4.0.bn1.running_mean"],  # a tensor
    ["*.conv2"],  # a layer of every block: its inputs are protected, too
    ["fc"],  # the classifier
]


@pytest.mark.parametrize("patterns", PATTERNS, ids=str)
def test_what_is_named_keeps_its_shape(resnet: tuple[nn.Module, Tensor], patterns: list[str]) -> None:
    """Every tensor inside of what the patterns name has the dense shape, whatever else is cut."""
    model, images = resnet
    options = {"target_units": 0.5, "cut": "uniform", "ordering": "variance", "calibration": "joint", "streams": True}
    result = snp.prune(model, [images], ignore=patterns, **options)
    dense, left = shapes(model), shapes(result.model)
    protected = [name for name in dense if ignored_names(name, patterns)]
    assert protected
    assert all(left[name] == dense[name] for name in protected)
    assert left != dense


def ignored_names(tensor: str, patterns: list[str]) -> bool:
    """By the words of a name, without the code under test."""
    for pattern in patterns:
        words = pattern.strip("*.").split(".")
        parts = tensor.split(".")
        if any(parts[start : start + len(words)] == words for start in range(len(parts))):
            return True
    return False


def test_group_names_are_taken_as_they_are_listed(resnet: tuple[nn.Module, Tensor]) -> None:
    """Each name of the listing, used as a pattern, leaves that group alone and is accepted."""
    model, images = resnet
    found = survey(model, images[:2], PruneSettings(streams=True))
    for group in found.graph.groups:
        assert group.name in ignored_groups(model, found.graph.groups, [group.name])


@pytest.mark.parametrize(
    ("pattern", "near"), [("layer4.0.conv9", "layer4.0.conv2"), ("bloks", "names"), ("fcc", "fc"), ("", "names")]
)
def test_pattern_that_names_nothing(resnet: tuple[nn.Module, Tensor], pattern: str, near: str) -> None:
    """It is quoted, with near names."""
    model, images = resnet
    with pytest.raises(ValueError, match=r"prune\.ignore: ") as caught:
        snp.inspect(model, images, ignore=["layer1*", pattern])
    assert repr(pattern) in str(caught.value)
    assert near in str(caught.value)


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_classifier_outputs_are_never_cut(name: str) -> None:
    """Cut to the bone, streams included: the rows of the last layer are in no group, and all classes come out."""
    model, images = small(name)
    head = model.get_classifier()
    assert isinstance(head, nn.Linear)
    found = survey(model, images[:2], PruneSettings(streams=True))
    producers = {member.tensor for group in found.groups for member in group.producers}
    assert not [tensor for tensor in producers if model.get_parameter(tensor) is head.weight]
    options = {"target_units": 0.01, "cut": "uniform", "ordering": "variance", "reconstruct": False, "round_to": 1}
    result = snp.prune(model, [images], streams=True, **options)
    assert result.model(images).shape == (2, 7)
    assert result.model.get_classifier().weight.shape[0] == 7


def test_shares_are_counted_from_shapes() -> None:
    """By hand: 3 -> 4 channels of 3 x 3 on 6 x 6 outputs, 4 -> 5 of 1 x 1, then a linear layer on the flat map."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.Flatten(), nn.Linear(180, 2, bias=False)
    ).eval()
    found = snp.inspect(model, torch.randn(2, 3, 8, 8))
    first, second, head = 36 * 4 * 27, 36 * 5 * 4, 360
    assert found.macs == first + second + head == macs(model, torch.randn(1, 3, 8, 8))
    assert [group.macs_share for group in found.groups] == [
        pytest.approx((first + second) / found.macs),
        pytest.approx((second + head) / found.macs),
    ]
    assert found.prunable_macs == found.macs
    assert [(group.name, group.num_units, group.readers) for group in found.groups] == [
        ("0", 4, ("2",)),
        ("2", 5, ("4",)),
    ]
    assert found.params == num_params(model)


@pytest.mark.parametrize("name", ["cnn", "attention"])
def test_every_group_and_reason_is_listed(name: str) -> None:
    """What a prune cuts and what its plan calls frozen is what the listing says, and the page shows each name."""
    model = getattr(networks, name)()
    batch = networks.images() if name == "cnn" else networks.tokens()
    found = snp.inspect(model, batch, ignore=["head"])
    result = snp.prune(model, [batch], target_units=0.5, cut="uniform", ordering="saw", ignore=["head"])
    assert [group.name for group in found.groups if group.frozen is None] == [
        decision.group.name for decision in result.plan.groups
    ]
    left_alone = {group.name: group.frozen for group in found.groups if group.frozen} | found.frozen
    assert left_alone == result.plan.frozen
    for group in found.groups:
        assert f"| {group.name} " in str(found)
        assert 0 < group.macs_share <= 1
    for label, reason in left_alone.items():
        assert label in str(found)
        assert reason in str(found)
    assert json.loads(found.to_json())["frozen"] == found.frozen


def test_inspection_changes_nothing() -> None:
    """The model keeps weights, mode and shapes; a dry run of the library call is refused with the right name."""
    model = networks.cnn().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    snp.inspect(model, (networks.images(), torch.zeros(48)))
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match=r"snp\.inspect"):
        snp.prune(model, [networks.images()], dry_run=True)


def test_network_without_groups_is_listed() -> None:
    """Where nothing can be cut, the listing says why instead of failing."""
    found = snp.inspect(nn.Sequential(nn.Linear(4, 3)).eval(), torch.randn(2, 4))
    assert (found.groups, found.prunable_macs, found.macs) == ((), 0, 12)
    assert found.frozen == {"0.weight": "an output of the network"}


def test_dry_run_of_the_command_line(tmp_path: Path) -> None:
    """It prints and writes the groups without training or measuring, and leaves an earlier run's results alone."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.json").write_text("{}")
    ended = run_here("prune.dry_run=true", "prune.ignore=[layer3.0.bn1]", folder=tmp_path)
    assert ended.status == 0, ended.stderr
    assert "training: " not in ended.stdout
    assert ended.stdout.splitlines()[-1] == f"Run folder: {folder}"
    listed = json.loads((folder / "groups.json").read_text())
    assert (folder / "groups.md").read_text() in ended.stdout
    reasons: dict[str, Any] = {group["name"]: group["frozen"] for group in listed["groups"]}
    assert reasons["layer1.0.conv1"] is None
    assert reasons["layer3.0.conv1"] == "named by prune.ignore"
    assert "residual stream" in reasons["conv1"]
    assert (folder / "metrics.json").read_text() == "{}"
    assert not list(folder.glob("*.safetensors"))


def test_unknown_pattern_at_the_command_line(tmp_path: Path) -> None:
    """One line, status 2, nothing trained."""
    ended = run_here("prune.dry_run=true", "prune.ignore=[layr1]", folder=tmp_path)
    assert ended.status == 2
    assert "'layr1' names no group" in ended.stderr
    assert "near names: layer1" in ended.stderr
    assert ended.stdout == ""


def test_parts_and_shares_are_those_of_the_groups() -> None:
    """Groups of a grouped convolution are named as parts; where weights are written down first, shares are counted."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
    ).eval()
    found = snp.inspect(model, torch.randn(2, 3, 4, 4))
    assert [group.num_partitions for group in found.groups] == [2, 2]
    cells = [line.split("|") for line in str(found).splitlines() if line.startswith("| ")]
    parts = [word.strip() for word in cells[0]].index("parts")
    assert [row[parts].strip() for row in cells[2:4]] == ["2", "2"]
    experts = transformers.AutoModelForCausalLM.from_config(
        transformers.MixtralConfig(
            vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, num_local_experts=2,
        )
    )  # fmt: skip
    shown = snp.inspect(experts, {"input_ids": torch.randint(0, 32, (2, 6))})
    # Two of two experts for each of six tokens, of three matrices each.
    assert sum(group.macs_share for group in shown.groups) == pytest.approx(6 * 2 * 3 * 16 * 32 / shown.macs, rel=1e-3)
