"""Do results in a folder stay where a second run has other settings, data, weights or processes?"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from snp.core.deciding import trainer_facts
from snp.models import ModelSpec, build
from snp.models.sources.weights import write_weights
from snp.run.facts import given_weights, run_facts
from snp.run.replacing import refuse_other_facts, refuse_replacing
from tests.command_line import run_here

CONFIG: dict[str, Any] = {
    "model": {"family": "timm", "hub_token": "abc"},
    "data": {"root": "photos", "num_workers": 4, "arguments": {"num_workers": 4, "size": 8}},
    "prune": {"largest_token": 4.0},
    "trainer": {"_target_": "x", "accelerator": "cpu", "devices": 1, "precision": "32-true", "limit_val_batches": None},
}


def changed(name: str, value: object) -> dict[str, Any]:
    """The same settings with another value of one."""
    section, _, option = name.partition(".")
    return {**CONFIG, section: {**CONFIG.get(section, {}), option: value}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results of these settings."""
    (tmp_path / "plan.json").write_text("{}")
    (tmp_path / "run.json").write_text(json.dumps(run_facts(CONFIG, ["run.py"])))
    return tmp_path


def test_the_same_settings_go_on(folder: Path) -> None:
    """Also with another number of loading processes, and with a secret, which no file holds to be compared."""
    refuse_replacing(folder, CONFIG)
    refuse_replacing(folder, changed("data.num_workers", 0))
    refuse_replacing(folder, changed("data.arguments", {"num_workers": 0, "size": 8}))
    with pytest.raises(ValueError, match=r"data.arguments.size was 8 and is 16"):
        refuse_replacing(folder, changed("data.arguments", {"num_workers": 0, "size": 16}))
    assert "abc" not in (folder / "run.json").read_text()
    refuse_replacing(folder, changed("model.hub_token", "xyz"))


def test_a_number_with_the_name_of_a_secret(folder: Path) -> None:
    """It is written down as it is, and compared."""
    assert json.loads((folder / "run.json").read_text())["config"]["prune"] == {"largest_token": 4.0}
    with pytest.raises(ValueError, match=r"prune.largest_token was 4.0 and is 100.*overwrite=true"):
        refuse_replacing(folder, changed("prune.largest_token", 100))


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("limit_train_batches", 4, "limit_train_batches was None and is 4"),
        ("limit_val_batches", 1, "limit_val_batches was None and is 1"),
        ("limit_test_batches", 0.5, "limit_test_batches was None and is 0.5"),
        ("accumulate_grad_batches", 2, "accumulate_grad_batches was 1 and is 2"),
        ("gradient_clip_val", 1.0, "gradient_clip_val was None and is 1.0"),
        ("precision", "bf16-mixed", "precision was '32-true' and is 'bf16-mixed'"),
        ("max_steps", 10, "max_steps was -1 and is 10"),
    ],
)
def test_options_of_the_trainer_that_decide(option: str, value: object, said: str, folder: Path) -> None:
    """They change what is trained, measured or scored, whether they were given before or not."""
    with pytest.raises(ValueError, match=f"trainer.{said}"):
        refuse_replacing(folder, changed(f"trainer.{option}", value))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("accelerator", "gpu"), ("devices", 2), ("strategy", "ddp"), ("sync_batchnorm", True), ("num_nodes", 2),
        ("enable_progress_bar", False), ("log_every_n_steps", 1), ("limit_val_batches", 1.0), ("precision", "32"),
    ],
)  # fmt: skip
def test_options_of_the_trainer_that_do_not_decide(option: str, value: object, folder: Path) -> None:
    """Where it works and what it shows, or the same in other words."""
    refuse_replacing(folder, changed(f"trainer.{option}", value))


def test_more_processes_make_the_same_plan_and_another_training(folder: Path) -> None:
    """Results go on with another number of them as long as nothing was trained from the plan."""
    (folder / "run.json").write_text(json.dumps({**run_facts(CONFIG, ["run.py"]), "processes": 2}))
    refuse_other_facts(folder, {"processes": 1})
    (folder / "finetuned.safetensors").touch()
    refuse_other_facts(folder, {"processes": 2})
    with pytest.raises(ValueError, match=r"processes of the trainer were 2 and are 1.*overwrite=true"):
        refuse_other_facts(folder, {"processes": 1})


def test_other_data_under_the_same_path(folder: Path) -> None:
    """They are told by their contents, where an earlier version of the code noted them."""
    data = {"name": "pictures", "contents": "a"}
    refuse_other_facts(folder, {"data": data})
    (folder / "run.json").write_text(json.dumps({**run_facts(CONFIG, ["run.py"]), "data": data}))
    refuse_other_facts(folder, {"data": data})
    with pytest.raises(ValueError, match=r"results of other data \(pictures: names, sizes or contents of its files"):
        refuse_other_facts(folder, {"data": data | {"contents": "b"}})


def noted(spec: ModelSpec, path: Path) -> dict[str, Any]:
    """Facts of a run of a network, as far as they say which weights it was given."""
    facts = run_facts({"model": {"checkpoint": None if spec.checkpoint is None else str(path)}}, ["run.py"])
    return facts | {"given_weights": given_weights(spec.prepare(10, 8, trains_from_scratch=True))}


def test_another_checkpoint_under_the_same_name(folder: Path) -> None:
    """As that of a training that was repeated; the same weights in another file are the same."""
    path = folder / "best.safetensors"
    spec = ModelSpec(family="cifar_resnet", name="small", arguments={"depth": 20}, checkpoint=str(path))
    first, second = (build("cifar_resnet", depth=20, num_classes=10, image_size=8) for _ in range(2))
    write_weights(first, path)
    facts = noted(spec, path)
    (folder / "run.json").write_text(json.dumps(facts))
    write_weights(first, path, {"epoch": "3"})
    refuse_other_facts(folder, noted(spec, path))
    write_weights(second, path)
    said = r"results of other weights \(model.checkpoint=.*best.safetensors: the weights there are not.*overwrite=true"
    with pytest.raises(ValueError, match=said):
        refuse_other_facts(folder, noted(spec, path))
    del facts["given_weights"]  # an earlier version of the code did not note them
    (folder / "run.json").write_text(json.dumps(facts))
    refuse_other_facts(folder, noted(spec, path))


def test_weights_that_were_not_there_at_first(folder: Path) -> None:
    """A run that began with random weights, and whose settings now find pretrained ones, is another."""
    spec = ModelSpec(family="cifar_resnet", name="small", arguments={"depth": 20})
    facts = noted(spec, folder)
    assert facts["given_weights"] is None
    (folder / "run.json").write_text(json.dumps(facts))
    refuse_other_facts(folder, noted(spec, folder))
    with pytest.raises(ValueError, match=r"results of other weights \(model.pretrained=true: the weights there"):
        refuse_other_facts(folder, facts | {"given_weights": "a", "config": {"model": {"pretrained": True}}})


def test_what_a_stage_depends_on() -> None:
    """Limits of a part count where that part is looked at, the number of processes where they train from the plan."""
    options = {
        "limit_train_batches": 4, "limit_test_batches": 2, "limit_predict_batches": 1, "accumulate_grad_batches": 1,
        "devices": 2, "processes": 2, "sync_batchnorm": True,
    }  # fmt: skip
    assert trainer_facts(options, "weights") == (("limit_train_batches", 4),)
    assert trainer_facts(options, "plan") == trainer_facts(options, "moments") == (("limit_predict_batches", 1),)
    assert trainer_facts(options, "dense") == trainer_facts(options, "tuned") == (("limit_test_batches", 2),)
    assert trainer_facts(options, "finetuned") == (
        ("limit_test_batches", 2), ("limit_train_batches", 4), ("processes", 2), ("sync_batchnorm", True),
    )  # fmt: skip
    assert trainer_facts({**options, "processes": 1}, "finetuned")[2:] == ()


@pytest.mark.rehearsal
def test_a_finished_run_and_other_limits(tmp_path: Path) -> None:
    """They are refused; told to give way, results are those of a run that had the limits from the beginning."""

    def numbers(folder: Path) -> dict[str, Any]:
        found = json.loads((folder / "run" / "metrics.json").read_text())
        return {name: value for name, value in found.items() if name.endswith("acc1_percent")}

    options = ("experiment=debug", "prune.trials=false")
    assert run_here(*options, folder=tmp_path, tiny=False).status == 0
    before = numbers(tmp_path)
    others = (*options, *(f"trainer.limit_{part}_batches=null" for part in ("train", "val", "test")))
    refused = run_here(*others, folder=tmp_path, tiny=False)
    assert refused.status == 2
    assert "trainer.limit_train_batches was 4 and is None" in refused.stderr
    assert numbers(tmp_path) == before
    ended = run_here(*others, "overwrite=true", folder=tmp_path, tiny=False)
    assert "is used" not in ended.stdout, ended.stdout
    assert run_here(*others, folder=tmp_path / "fresh", tiny=False).status == 0
    assert numbers(tmp_path) == numbers(tmp_path / "fresh") != before


@pytest.mark.rehearsal
def test_a_finished_run_and_other_images(tmp_path: Path) -> None:
    """Two classes that changed places are refused in the folder, and nothing of them is taken from a shared cache."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(60):
            pixels = generator.integers(100 * label, 100 * label + 100, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number}.png")
    options = ("experiment=debug", "prune.trials=false", "data=image_folder", f"data.root={tmp_path / 'pictures'}")
    options += (f"cache_dir={tmp_path / 'cache'}", "data.num_workers=0", "finetune.epochs=0")
    assert run_here(*options, folder=tmp_path, tiny=False).status == 0
    assert "is used" in run_here(*options, folder=tmp_path, tiny=False).stdout
    for old, new in (("cat", "other"), ("dog", "cat"), ("other", "dog")):
        (tmp_path / "pictures" / old).rename(tmp_path / "pictures" / new)
    refused = run_here(*options, folder=tmp_path, tiny=False)
    assert refused.status == 2
    assert "holds results of other data (image_folder: names, sizes or contents" in refused.stderr
    fresh = run_here(*options, folder=tmp_path / "fresh", tiny=False)
    assert fresh.status == 0, fresh.stderr
    assert "an earlier run are used" not in fresh.stdout
