"""Do two processes give what one gives: the same moments, plans and accuracies, each sample counted once?"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.command_line import ROOT, Ended, environment, run
from tests.transformer_models import save_folder, sentences
from tests.two_processes import SAMPLES, measure

pytestmark = pytest.mark.filterwarnings("default")  # Lightning's hints on small data


def assert_same_moments(path: Path, expected: Path, tolerance: float = 1e-10) -> None:
    """Sums over the same samples, added up in another order: equal to a part of the largest entry."""
    found, wanted = load_file(path), load_file(expected)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        difference = (found[name] - tensor).abs().max().double()
        assert difference <= tolerance * tensor.abs().max().double(), name


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two processes left, started as a script starts them."""
    folder = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "tests.two_processes", str(folder)]
    variables = {**environment(folder), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that one process left."""
    folder = tmp_path_factory.mktemp("alone")
    measure(folder, 1, 0)
    return folder


@pytest.mark.parametrize("rank", [0, 1])
def test_moments_of_an_odd_number_of_samples(rank: int, together: Path, alone: Path) -> None:
    """Each process ends with the sums over all samples, none repeated and none left out."""
    assert_same_moments(together / f"moments{rank}.safetensors", alone / "moments0.safetensors")
    assert json.loads((together / f"found{rank}.json").read_text())["samples"] == SAMPLES


def test_accuracy_counts_each_sample_once(together: Path, alone: Path) -> None:
    """The accuracy on an odd number of test images is that of one process, on both."""
    wanted = json.loads((alone / "found0.json").read_text())["accuracy"]
    assert wanted * 359 / 100 == pytest.approx(round(wanted * 359 / 100), abs=1e-3)
    for rank in range(2):
        assert json.loads((together / f"found{rank}.json").read_text())["accuracy"] == pytest.approx(wanted, rel=1e-6)
    scored = json.loads((together / "found0.json").read_text())["scored"]
    assert scored == {"test/samples": 359, "dense/acc1_percent": pytest.approx(wanted, rel=1e-6)}


def test_processes_go_on_with_the_same(together: Path) -> None:
    """The first process decides for both, and trained networks agree to the last bit, statistics of norms included."""
    first, second = (json.loads((together / f"found{rank}.json").read_text()) for rank in range(2))
    assert first["decided_by"] == second["decided_by"] == "process 0"
    assert first["trained"] == second["trained"]


def assert_same_plan_and_weights(found: Path, wanted: Path) -> None:
    """The plan to the letter, weights to a millionth."""
    plans = [json.loads((folder / "plan.json").read_text())["groups"] for folder in (found, wanted)]
    assert plans[0] == plans[1]
    small, want = (load_file(folder / "pruned.safetensors") for folder in (found, wanted))
    assert small.keys() == want.keys()
    for name, tensor in want.items():
        torch.testing.assert_close(small[name], tensor, rtol=1e-6, atol=1e-6)


def assert_same_run(found: Path, wanted: Path) -> None:
    """The same, and accuracies to the image."""
    assert_same_plan_and_weights(found, wanted)
    numbers = [json.loads((folder / "metrics.json").read_text()) for folder in (found, wanted)]
    for name in ("dense/acc1_percent", "pruned/acc1_percent", "pruned/macs", "calibration/samples"):
        assert numbers[0][name] == pytest.approx(numbers[1][name], abs=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [2, 3])
def test_a_whole_run_on_several_processes(num_processes: int, finished_run: tuple[Path, Ended], tmp_path: Path) -> None:
    """By the default method, on 65 samples, several processes give what one gives, and then train."""
    (tmp_path / "cache").mkdir()
    shutil.copy(next(finished_run[0].glob("dense-*")), tmp_path / "cache")
    options = ("trainer=ddp_cpu", f"trainer.devices={num_processes}", "hydra.run.dir=both", "cache_dir=cache")
    ended = run(*options, "finetune.distil=0.5", cwd=tmp_path)
    assert ended.status == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == f"Run folder: {tmp_path / 'both'}"
    assert "the dense weights of an earlier run are used" in ended.stdout
    shares = {2: "10 + 8, folds 2 + 2", 3: "6 + 6 + 6, folds 2 + 1 + 1"}[num_processes]
    assert f"shared out over {num_processes} processes: trial cuts {shares}" in ended.stdout
    found, wanted = (next(folder.glob("moments-*")) for folder in (tmp_path / "cache", finished_run[0]))
    assert_same_moments(found, wanted, 1e-12)
    assert_same_run(tmp_path / "both", finished_run[0])
    numbers = json.loads((tmp_path / "both" / "metrics.json").read_text())
    assert numbers["finetuned/acc1_percent"] > numbers["pruned/acc1_percent"]  # learned from the dense network
    assert not list(tmp_path.glob("outputs"))


@pytest.mark.slow
def test_block_by_block_on_two_processes(tmp_path: Path) -> None:
    """Each streams its share of the windows; plan and weights are those of one process, and nothing is left behind."""
    home = save_folder(tmp_path / "opt")
    for number, (name, count) in enumerate({"train": 60, "test": 25}.items()):
        (home / f"{name}.txt").write_text(sentences(count, number))
    texts = [f"data.{name}={home}/{name}.txt" for name in ("train", "test")]
    options = ["model=opt", f"model.checkpoint={home}", "data=text", *texts, "data.context=12", "finetune.epochs=0"]
    options += ["calibration.samples=17", "calibration.streamed=true", "prune.trials=false", "logger=none"]
    for name, trainer in (("one", "cpu"), ("two", "ddp_cpu")):
        asked = ("prune.target_params=0.8", f"trainer={trainer}", f"hydra.run.dir={name}")
        ended = run(*options, *asked, cwd=tmp_path, tiny=False)
        assert ended.status == 0, ended.stderr
    assert_same_plan_and_weights(tmp_path / "two", tmp_path / "one")
    metrics = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert metrics["calibration/samples"] == 17
    assert not list((tmp_path / "two").glob("moments*"))


def folder_with_copies(root: Path) -> str:
    """Thirty training images, twenty of them under three names in two classes, and six to test on."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 6)):
        for number in range(count):
            pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            for again in range(3 if part == "train" and number < 20 else 1):
                path = root / part / "ab"[(number + again) % 2] / f"{number}-{again}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return str(root)


@pytest.mark.slow
def test_images_under_several_names_on_two_processes(tmp_path: Path) -> None:
    """All training files are asked for: each image counts once, whatever the number of processes, and that is told."""
    (tmp_path / "cache").mkdir()
    data = ("data=image_folder", f"data.root={folder_with_copies(tmp_path / 'data')}", "data.num_workers=0")
    options = (*data, "data.val_fraction=0", "model=cifar_resnet20", "calibration.samples=70", "finetune.epochs=0")
    for name, more in (("one", ()), ("two", ("trainer=ddp_cpu",))):
        ended = run(*options, *more, "cache_dir=cache", f"hydra.run.dir={name}", cwd=tmp_path)
        assert ended.status == 0, ended.stderr
        assert "40 of 70 calibration samples repeat another, or nearly: left out" in ended.stdout
        plan = json.loads((tmp_path / name / "plan.json").read_text())
        assert (plan["settings"]["samples"], plan["settings"]["repeats"]) == (30, 40)
        assert "40 more drawn that repeat one of them" in (tmp_path / name / "report.md").read_text()
        for path in (tmp_path / "cache").glob("moments-*"):
            path.unlink()  # the next run measures for itself
    assert_same_run(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_too_few_that_differ_for_two_processes(tmp_path: Path) -> None:
    """One image under many names cannot be shared out."""
    root = tmp_path / "data"
    for part in ("train", "test"):
        for number in range(6):
            path = root / part / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (9, 8, 7)).save(path)
    options = ("data=image_folder", f"data.root={root}", "data.num_workers=0", "data.val_fraction=0", "logger=none")
    ended = run(*options, "model=cifar_resnet20", "calibration.samples=6", "trainer=ddp_cpu", cwd=tmp_path)
    assert ended.status == 2
    assert "calibration.samples=6: only 1 of them differ" in ended.stderr


@pytest.mark.slow
def test_a_refusal_on_two_processes(finished_run: tuple[Path, Ended], tmp_path: Path) -> None:
    """A budget that cannot be met ends both processes, with one message and status 2."""
    (tmp_path / "cache").mkdir()
    for path in (*finished_run[0].glob("dense-*"), *finished_run[0].glob("moments-*")):
        shutil.copy(path, tmp_path / "cache")
    options = ("trainer=ddp_cpu", "cache_dir=cache", "logger=none")
    ended = run(*options, "prune.target_macs=0.0001", cwd=tmp_path)
    assert ended.status == 2
    assert ended.stderr.count("error: ") == 1
    assert "prune.target_macs=0.0001 cannot be reached" in ended.stderr
    assert "Traceback" not in ended.stderr
