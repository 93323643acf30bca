"""Does a folder that was changed on the way say so, and does one of an earlier version still load?"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import snp
from snp.models.sources.weights import read_metadata


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What snp.save writes."""
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(32, 6, generator=generator)]
    path = tmp_path_factory.mktemp("saved") / "folder"
    snp.save(snp.prune(network(), batches, target_units=0.5, round_to=1), path)
    other = snp.prune(network(), batches, target_units=0.5, round_to=1, ordering="random", seed=3)
    snp.save(other, path.with_name("other"))
    return path


def outputs(path: Path) -> torch.Tensor:
    with torch.no_grad():
        return snp.load(path, network())(torch.ones(2, 6))


def test_what_was_changed_on_the_way(folder: Path, tmp_path: Path) -> None:
    """A flipped bit, exchanged layers and another run's weights are refused by name, each."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    weights = copy / "pruned.safetensors"
    content, wanted = weights.read_bytes(), outputs(copy)
    assert torch.equal(wanted, outputs(folder))
    weights.write_bytes(content[:-3] + bytes([content[-3] ^ 8]) + content[-2:])
    with pytest.raises(ValueError, match=r"pruned\.safetensors is damaged: its content is not what was written"):
        outputs(copy)
    weights.write_bytes(content)
    tensors, metadata = load_file(weights), read_metadata(weights)
    tensors["0.bias"], tensors["2.bias"] = tensors["2.bias"], tensors["0.bias"]
    save_file(tensors, weights, metadata)
    with pytest.raises(ValueError, match=r"pruned\.safetensors is damaged"):
        outputs(copy)
    shutil.copy(folder.with_name("other") / "pruned.safetensors", weights)
    with pytest.raises(ValueError, match=r"pruned\.safetensors was made by another plan"):
        outputs(copy)
    weights.write_bytes(content[:100])
    with pytest.raises(ValueError, match=r"pruned\.safetensors"):
        outputs(copy)


def test_folders_of_earlier_versions(folder: Path, tmp_path: Path) -> None:
    """Without hashes in plan and weights a folder loads as before."""
    plain = json.loads((folder / "plan.json").read_text())
    del plain["content"]
    (tmp_path / "plan.json").write_text(json.dumps(plain))
    save_file(load_file(folder / "pruned.safetensors"), tmp_path / "pruned.safetensors")
    assert torch.equal(outputs(tmp_path), outputs(folder))


def test_a_plan_that_is_no_text(folder: Path, tmp_path: Path) -> None:
    """The file is named."""
    shutil.copy(folder / "pruned.safetensors", tmp_path)
    (tmp_path / "plan.json").write_bytes(b'{"format": "\xff\xfe"}')
    with pytest.raises(ValueError, match=r"plan\.json is damaged or not a plan: its bytes are no text in UTF-8$"):
        outputs(tmp_path)
