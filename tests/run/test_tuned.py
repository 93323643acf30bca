"""Is tuning a stage of its own in a run: beside the closed form, on every page, and the same on several processes?"""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import snp
from snp.export.folder import ExportFolder
from snp.fit.tuning.state import TuningState
from snp.report.choice import better_stage
from snp.run.stopping import Stopped
from snp.run.training.kept_tuning import KeptTuning
from tests.command_line import Ended, run, run_here

pytestmark = pytest.mark.filterwarnings("default")  # Lightning's hints on small data

TUNED = ("prune.reconstruct=tuned", "prune.tune_epochs=8", "prune.trials=false", "calibration.samples=257")


def weights(folder: Path, stage: str) -> dict[str, torch.Tensor]:
    return load_file(folder / f"{stage}.safetensors")


def is_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def numbers(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A run that tunes and fine-tunes."""
    folder = tmp_path_factory.mktemp("tuned")
    ended = run_here(*TUNED, folder=folder)
    assert ended.status == 0, ended.stderr
    return folder / "run", ended


def test_it_has_its_own_row_and_its_own_weights(tuned: tuple[Path, Ended]) -> None:
    """Scores and file beside those of the closed form; what they say of it is that it was trained, without labels."""
    folder, ended = tuned
    found = numbers(folder)
    for name in ("acc1_percent", "val_acc1_percent", "macs", "params", "size_bytes"):
        assert f"tuned/{name}" in found
    assert found["tuned/macs"] == found["pruned/macs"]
    assert found["tune/distance_after"] <= found["tune/distance_before"]
    assert found["tune/samples"] + found["tune/held_back"] == found["calibration/samples"]
    assert "[snp] Tuned without labels on" in ended.stdout
    page = (folder / "report.md").read_text()
    assert "| dense | pruned | tuned | finetuned |" in " ".join(page.split())
    assert "without labels" in page
    assert "tuning without labels" in page
    pruned, moved = (snp.load(folder, weights=stage) for stage in ("pruned", "tuned"))
    assert not is_same(pruned.state_dict(), moved.state_dict())
    assert ExportFolder(folder).weights("tuned").stage == "tuned"
    assert (folder / f"{better_stage(found)}.safetensors").is_file()


def test_the_closed_form_has_the_plan_of_a_run_without_tuning(tuned: tuple[Path, Ended], tmp_path: Path) -> None:
    """Its weights are fitted without the samples that tuning is judged by; a plain run leaves no tuned weights."""
    folder, _ = tuned
    options = [option for option in TUNED if "tune" not in option]
    ended = run_here(*options, f"cache_dir={folder}", "finetune.epochs=0", folder=tmp_path)
    assert ended.status == 0, ended.stderr
    plain, before = numbers(tmp_path / "run"), numbers(folder)
    plans = [json.loads((each / "plan.json").read_text())["groups"] for each in (tmp_path / "run", folder)]
    assert plans[0] == plans[1]
    assert before["prune/fitted_samples"] == before["calibration/samples"] - before["tune/held_back"]
    assert plain["prune/fitted_samples"] > before["prune/fitted_samples"]
    assert not is_same(weights(tmp_path / "run", "pruned"), weights(folder, "pruned"))
    assert not (tmp_path / "run" / "tuned.safetensors").exists()
    assert not [name for name in plain if name.startswith(("tuned/", "tune/"))]


def test_a_second_start_takes_it_as_it_is(tuned: tuple[Path, Ended]) -> None:
    """Weights and numbers stay, and nothing is tuned anew."""
    folder, _ = tuned
    before = [(folder / f"{stage}.safetensors").read_bytes() for stage in ("tuned", "finetuned")]
    scores = {name: value for name, value in numbers(folder).items() if name.startswith(("tuned/", "tune/"))}
    ended = run_here(*TUNED, folder=folder.parent)
    assert ended.status == 0, ended.stderr
    assert "tuned: what an earlier start of this run left is used" in ended.stdout
    assert "Tuned without labels on" not in ended.stdout
    assert [(folder / f"{stage}.safetensors").read_bytes() for stage in ("tuned", "finetuned")] == before
    assert scores.items() <= numbers(folder).items()


@pytest.mark.rehearsal
def test_a_run_that_is_stopped_while_it_tunes(
    tuned: tuple[Path, Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on after the last epoch that was kept, ends with the same weights, and leaves no state behind."""
    folder, _ = tuned
    options = (*TUNED, f"cache_dir={folder}", "finetune.epochs=0")
    kept, epochs = KeptTuning.offer, list[int]()

    def offer(keeper: KeptTuning, state: Callable[[], TuningState]) -> None:
        keeper._seconds = 0.0
        kept(keeper, state)
        epochs.append(len(state().part("nearest").numbers["distances"]) - 1)
        if epochs[-1] == 3:
            raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(KeptTuning, "offer", offer)
    assert run_here(*options, folder=tmp_path).status == 143
    assert list((tmp_path / "run" / "checkpoints").glob("tune-*/last.safetensors"))
    ended = run_here(*options, folder=tmp_path)
    assert ended.status == 0, ended.stderr
    assert "tuning goes on from" in ended.stdout
    assert epochs == [1, 2, 3, 4, 5, 6, 7, 8]
    assert is_same(weights(tmp_path / "run", "tuned"), weights(folder, "tuned"))
    assert numbers(tmp_path / "run")["tune/distance_after"] == numbers(folder)["tune/distance_after"]
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(tuned: tuple[Path, Ended], tmp_path: Path) -> None:
    """The first process tunes on all samples, and both go on with what it found."""
    folder, _ = tuned
    ended = run(
        *TUNED, "trainer=ddp_cpu", f"cache_dir={folder}", "hydra.run.dir=both", "finetune.epochs=1", cwd=tmp_path
    )
    assert ended.status == 0, ended.stderr
    for stage in ("pruned", "tuned"):
        found, wanted = weights(tmp_path / "both", stage), weights(folder, stage)
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5)
    assert numbers(tmp_path / "both")["tuned/acc1_percent"] == pytest.approx(numbers(folder)["tuned/acc1_percent"])
