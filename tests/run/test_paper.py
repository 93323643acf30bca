"""Do the experiments of the paper run, each reduced to one step of a small network of its kind?  Full ones are slow."""

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from snp.models import build
from snp.surgery.subject import subject_of
from tests.command_line import ROOT, run_here
from tests.transformer_models import save_folder, sentences

pytestmark = pytest.mark.filterwarnings("default")

ONE_STEP = (
    "data=digits",
    "model.pretrained=false",
    "dense.epochs=0",
    "finetune.epochs=1",
    "trainer.limit_train_batches=1",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "calibration.samples=16",
)


def metrics_of(folder: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((folder / "metrics.json").read_text())
    return found


@pytest.mark.parametrize(
    ("name", "network"),
    [
        pytest.param("paper_resnet50", ("model=timm", "model.name=test_resnet"), marks=pytest.mark.rehearsal),
        pytest.param("paper_deit", ("model=timm", "model.name=test_vit"), marks=pytest.mark.rehearsal),
        pytest.param("paper_resnet50", (), marks=pytest.mark.slow),
        pytest.param("paper_deit", (), marks=pytest.mark.slow),
        pytest.param("paper_vgg16", (), marks=[pytest.mark.nightly, pytest.mark.timeout(1800)]),
    ],
)
def test_one_step(name: str, network: tuple[str, ...], tmp_path: Path) -> None:
    """Cut by the paper's method within a budget that such a network reaches, and trained for a step by the recipe."""
    ended = run_here(f"experiment={name}", *ONE_STEP, *network, "prune.target_macs=0.7", folder=tmp_path, tiny=False)
    assert ended.status == 0, ended.stderr
    metrics = metrics_of(tmp_path / "run")
    assert metrics["prune/reached"] <= 0.7
    assert metrics["finetuned/macs"] == metrics["pruned/macs"] < metrics["dense/macs"]
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert (plan["settings"]["ordering"], plan["settings"]["cut"]) == ("zca", "variance")


@pytest.mark.rehearsal
def test_opt_is_pruned_without_training(tmp_path: Path) -> None:
    """A tiny OPT on text of a few words: parameters outside embeddings fall to the share asked for, by no training."""
    folder = save_folder(tmp_path / "opt")
    for part, count in (("train", 40), ("test", 20)):
        (folder / f"{part}.txt").write_text(sentences(count, seed=count))
    texts = ("data=text", f"data.train={folder}/train.txt", f"data.test={folder}/test.txt", "data.context=12")
    options = (f"model.checkpoint={folder}", *texts, "calibration.samples=16", "trainer=cpu")
    ended = run_here("experiment=paper_opt", *options, folder=tmp_path, tiny=False)
    assert ended.status == 0, ended.stderr
    metrics = metrics_of(tmp_path / "run")
    assert metrics["prune/reached"] <= 0.8
    assert metrics["pruned/perplexity"] > 1
    assert not [name for name in metrics if name.startswith("finetuned")]


def test_a_single_layer_of_vgg_is_open() -> None:
    """Of all groups of VGG-16 the one between the two layers is left to cut."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        settings = instantiate(compose("config", overrides=["experiment=vgg_single_layer"]).prune)
    with torch.device("cpu"):
        model = build("timm", model_name="vgg16", num_classes=10).eval()
    (group,) = subject_of(model, torch.randn(2, 3, 32, 32), settings).groups
    assert (group.name, [member.tensor for member in group.consumers]) == ("features.14", ["features.17.weight"])
