"""What do the rehearsed commands work on?  A plain copy of the repository, and small data and networks."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import save_file

from snp.data.cifar10 import CLASSES
from snp.models import build
from tests.command_line import ROOT
from tests.data.test_data import files_of, write_folder, write_tar
from tests.transformer_models import save_folder, sentences

__all__ = ["copy_of_the_repository", "material"]


def copy_of_the_repository(home: Path) -> Path:
    """What a download holds, without its history."""
    target = home / "copy"
    for name in ("snp", "conf", "benchmarks", "sweeps", "tests", "docs"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, target / name)
    return target


def material(home: Path) -> dict[str, str]:
    """Name of a kind of data -> its path."""
    for name in ("cifar", "opt", "wiki"):
        (home / name).mkdir()
    write_tar(home / "cifar" / "train.tar", files_of(CLASSES, 12))
    write_tar(home / "cifar" / "test.tar", files_of(CLASSES, 3))
    write_folder(home / "images", files_of(("cat", "dog"), 60, 40))
    network = build("cifar_resnet", depth=56, num_classes=10)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, home / "cifar.safetensors")
    opt = save_folder(home / "opt")
    for name, count, seed in (("train", 400, 0), ("test", 120, 1), ("second", 60, 2)):
        (opt / f"{name}.txt").write_text(sentences(count, seed))
    for number, split in enumerate(("train", "valid", "test")):
        (home / "wiki" / f"wiki.{split}.raw").write_text(sentences(400, number))
    names = {"cifar": "cifar", "images": "images", "weights": "cifar.safetensors", "opt": "opt", "wiki": "wiki"}
    texts = {name: f"opt/{name}.txt" for name in ("train", "test", "second")}
    return {name: str(home / path) for name, path in (names | texts).items()}
