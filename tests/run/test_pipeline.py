"""Do the parts of a run fit together: what is used again, what is left alone, and what the user hears?"""

import csv
import json
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import snp
from snp.data.digits import Digits
from snp.graph.batches import Batch
from snp.models.sources.weights import write_weights
from snp.run.cache import Cache
from snp.run.calibrate import CalibrationSettings
from snp.run.errors import command_line, guarded
from snp.run.folder import RunFolder, folder_at
from snp.run.pipeline import run as run_pipeline
from snp.run.processes import copy_from_first, from_first
from snp.run.refusals import refuse_processes, refuse_seed
from snp.run.results import begin_stage, drop
from snp.run.streamed import StreamedMoments
from snp.run.trainer import JobTrainer
from snp.run.training.recipe import TrainingRecipe
from snp.surgery.subject import subject_of
from tests.command_line import ROOT, TINY, Ended, run_here

pytestmark = pytest.mark.filterwarnings("default")  # Lightning's hints on small data

RECIPE = TrainingRecipe(epochs=2, learning_rate=0.1)


def digits(image_size: int = 8) -> Digits:
    data = Digits(batch_size=64)
    data.configure(image_size, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)
    return data


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))


class Training:
    """Moves the weights, and counts how often."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.times = model, 0

    def __call__(self, mark: str) -> None:
        self.times += 1
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter += 1


def trained(cache: Cache, recipe: TrainingRecipe = RECIPE) -> tuple[nn.Module, int]:
    """A network that got its weights through a cache, and how often it was trained for that."""
    model = network()
    training = Training(model)
    cache.dense_weights(model, recipe, training)
    return model, training.times


def test_dense_weights_are_used_again(tmp_path: Path) -> None:
    """The very same facts give the very same weights without training."""
    settings = {"batch_size": 64, "num_workers": 0}
    first, times = trained(Cache(tmp_path, digits(), settings, 0, "32-true"))
    assert times == 1
    # How many processes load the images does not change them.
    second, times = trained(Cache(tmp_path, digits(), {**settings, "num_workers": 4}, 0, "32-true"))
    assert times == 0
    assert all(map(torch.equal, first.parameters(), second.parameters()))


@pytest.mark.parametrize("changed", ["recipe", "seed", "data settings", "image format", "precision", "trainer"])
def test_dense_weights_of_other_facts_are_not_used(changed: str, tmp_path: Path) -> None:
    """Whatever training depends on makes it happen anew."""
    trained(Cache(tmp_path, digits(), {"batch_size": 64}, 0, "32-true"))
    data = digits(9 if changed == "image format" else 8)
    settings = {"batch_size": 32 if changed == "data settings" else 64}
    recipe = TrainingRecipe(epochs=3, learning_rate=0.1) if changed == "recipe" else RECIPE
    precision = "bf16-mixed" if changed == "precision" else "32-true"
    trainer = {"limit_train_batches": 4} if changed == "trainer" else {"limit_test_batches": 2, "devices": 2}
    assert trained(Cache(tmp_path, data, settings, int(changed == "seed"), precision, trainer), recipe)[1] == 1


def test_no_epochs_leave_the_network_untrained(tmp_path: Path) -> None:
    """dense.epochs=0 trains nothing and keeps nothing."""
    model, times = trained(Cache(tmp_path, digits(), {}, 0, "32-true"), TrainingRecipe(epochs=0, learning_rate=0.1))
    assert times == 0
    assert not list(tmp_path.iterdir())
    assert all(map(torch.equal, model.parameters(), network().parameters()))


def test_moments_of_repeats_are_not_used(tmp_path: Path) -> None:
    """A file of moments in which samples counted twice, of a time when they did, is not that of the samples left."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 8), nn.ReLU(), nn.Linear(8, 10)).eval()
    subject, measured = subject_of(model, Batch((torch.randn(2, 3, 8, 8),)), snp.PruneSettings()), list[int]()

    def measure() -> Any:
        measured.append(1)
        return {}, {"samples": 40}

    settings, data = CalibrationSettings(samples=40), digits()
    cache = Cache(tmp_path, data, {}, 0, "32-true")
    for _ in range(2):
        cache.moments(subject, settings, measure)
    assert len(measured) == 1
    data.num_repeats = lambda num_samples, seed: 3  # type: ignore[method-assign]
    assert [cache.moments(subject, settings, measure)[1]["reused"] for _ in range(2)] == [False, True]
    assert len(measured) == 2


def test_numbers_are_written_as_they_come(tmp_path: Path) -> None:
    """metrics.json grows with every record; what JSON has no word for is null."""
    folder = RunFolder(tmp_path / "new")
    folder.record({"dense/macs": 3})
    assert json.loads((folder.path / "metrics.json").read_text()) == {"dense/macs": 3}
    folder.record({"dense/acc1_percent": float("nan"), "time/plan_s": float("inf")})
    found = json.loads((folder.path / "metrics.json").read_text())
    assert found == {"dense/macs": 3, "dense/acc1_percent": None, "time/plan_s": None}


def test_an_earlier_run_stays_until_there_is_a_plan(tmp_path: Path) -> None:
    """Numbers and results in a folder that is used again give way when a plan was decided, not before."""
    RunFolder(tmp_path).record({"finetuned/macs": 1})
    write_weights(network(), tmp_path / "finetuned.safetensors")
    write_weights(network(), tmp_path / "dense.safetensors")
    folder = RunFolder(tmp_path)
    folder.record({"dense/macs": 2})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"finetuned/macs": 1}
    assert (tmp_path / "finetuned.safetensors").exists()
    folder.begin_results()
    folder.record({"pruned/macs": 3})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"dense/macs": 2, "pruned/macs": 3}
    assert not (tmp_path / "finetuned.safetensors").exists()
    assert (tmp_path / "dense.safetensors").exists()


def write_names(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()


def left_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


MADE = ("report.html", "model_card.md", "figures/cuts.png", "export/model.onnx", "export/model.int8.onnx")
OTHERS = ("plan.json", "pruned.safetensors", "moments-1.safetensors", "export/notes.txt")


def test_results_go_with_their_network(tmp_path: Path) -> None:
    """Pages and exports of weights that a new stage replaces, or nobody asks for any more, and no other file."""
    write_names(tmp_path, *MADE, *OTHERS)
    drop(tmp_path, "tuned", "finetuned")
    assert left_in(tmp_path) == {*MADE, *OTHERS}
    begin_stage(tmp_path, "finetuned")  # the export is that of the pruned network, and the page says there is no other
    assert left_in(tmp_path) == {*OTHERS, *MADE[3:]}
    for remove in (drop, begin_stage):
        write_names(tmp_path, *MADE, "finetuned.safetensors")
        remove(tmp_path, "finetuned")
        assert left_in(tmp_path) == {*OTHERS}
    write_names(tmp_path, *MADE)
    RunFolder(tmp_path).begin_results()
    assert left_in(tmp_path) == {*OTHERS} - {"pruned.safetensors"}


def test_moments_of_a_killed_run_go(tmp_path: Path) -> None:
    """The folder of those measured block by block, and nothing else that is called moments."""
    write_names(tmp_path, "moments-ab3d_xyz/0.bin", "moments-mine/0.bin", "moments-0123456789abcdef.safetensors")
    StreamedMoments(tmp_path)
    assert left_in(tmp_path) == {"moments-mine/0.bin", "moments-0123456789abcdef.safetensors"}


def test_a_folder_that_cannot_be_one(tmp_path: Path) -> None:
    """The message names the argument."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^cache_dir=.*file cannot be written to: .*; give another folder$"):
        folder_at(tmp_path / "file", "cache_dir")


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "a", True])
def test_seeds_that_some_library_refuses(seed: Any) -> None:
    """They are refused by name, before a library does."""
    with pytest.raises(ValueError, match=r"^seed must be"):
        refuse_seed(seed)


def test_seed_zero_is_a_seed() -> None:
    """And so are the largest one, two processes with a sample each, and a multirun of single processes."""
    refuse_seed(0)
    refuse_seed(2**32 - 1)
    refuse_processes(2, num_samples=2, is_multirun=False)
    refuse_processes(1, num_samples=1, is_multirun=True)


def test_one_process_decides_for_itself() -> None:
    """Without other processes a decision is what it is, a mistake is raised, and weights stay."""
    assert from_first(lambda: "plan") == "plan"
    with pytest.raises(ValueError, match="budget"):
        from_first(lambda: str(_refuse()))
    model = network()
    copy_from_first(model)
    assert all(map(torch.equal, model.parameters(), network().parameters()))


def _refuse() -> None:
    raise ValueError("the budget cannot be reached")


def test_the_door_explains_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    """A user's mistake is one line on standard error and status 2."""

    @guarded
    def main() -> None:
        raise ValueError("data.root=x:\n  there is no such folder")

    with pytest.raises(SystemExit) as ending:
        main()
    assert ending.value.code == 2
    assert capsys.readouterr().err == "error: data.root=x: there is no such folder\n"


def test_the_door_shows_everything_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    """HYDRA_FULL_ERROR=1 lets a mistake through with its stack trace."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="budget"):
        guarded(_refuse)()


@pytest.mark.parametrize(
    "error", [AssertionError("ours"), RuntimeError("torch"), TypeError("ours"), KeyboardInterrupt()]
)
def test_the_door_hides_no_error_of_ours(error: BaseException) -> None:
    """What is not a user's mistake keeps its stack trace."""

    @guarded
    def main() -> None:
        raise error

    with pytest.raises(type(error)):
        main()


def test_the_door_names_what_is_not_set(capsys: pytest.CaptureFixture[str]) -> None:
    """A mandatory option that is missing is named in full."""

    @guarded
    def main() -> None:
        OmegaConf.to_container(OmegaConf.create({"model": {"name": "???"}}), throw_on_missing=True)

    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == "error: model.name is not set: give model.name=...\n"


@pytest.mark.parametrize(("raised", "code", "status"), [(KeyError, 1, 2), (ValueError, 1, 1), (KeyError, 0, 0)])
def test_status_of_what_hydra_refuses(raised: type[Exception], code: int, status: int) -> None:
    """Only an ending with 1 because of a refusal becomes 2."""

    @command_line(KeyError)
    def hydra_main() -> None:
        try:
            raise raised("option")
        except Exception:
            sys.exit(code)

    with pytest.raises(SystemExit) as ending:
        hydra_main()
    assert ending.value.code == status


def test_options_that_are_not_there() -> None:
    """The pipeline names an option that it does not have."""
    with pytest.raises(ValueError, match="no option nope"):
        run_pipeline(nope=1)


def test_networks_on_disk_score_what_was_reported(finished_run: tuple[Path, Ended]) -> None:
    """The accuracies in metrics.json are those of the networks that snp.load gives, counted by hand."""
    folder, _ = finished_run
    metrics = json.loads((folder / "metrics.json").read_text())
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = hydra.compose("config", overrides=[*TINY, "run_dir=unused"])
    data, spec = hydra.utils.instantiate(config.data), hydra.utils.instantiate(config.model)
    facts = spec.prepare(data.num_classes, data.image_size, trains_from_scratch=True)
    data.configure(facts.image_size, facts.mean, facts.std, facts.interpolation, facts.crop_fraction)
    for stage in ("pruned", "finetuned"):
        model, correct, count = snp.load(folder, weights=stage), 0, 0
        for images, labels in data.test_dataloader():
            with torch.no_grad():
                correct += int((model(images).argmax(dim=1) == labels).sum())
            count += len(labels)
        assert metrics[f"{stage}/acc1_percent"] == pytest.approx(100 * correct / count, abs=1e-4)


def test_variance_of_every_group_is_on_disk(finished_run: tuple[Path, Ended]) -> None:
    """variance.csv holds, for each group of the plan, one rising row per unit, up to all of the variance."""
    folder, _ = finished_run
    groups = json.loads((folder / "plan.json").read_text())["groups"]
    with (folder / "variance.csv").open() as file:
        rows = list(csv.DictReader(file))
    for group in groups:
        shares = [float(row["cumulative_variance"]) for row in rows if row["group"] == group["name"]]
        assert len(shares) == group["num_units"]
        assert all(early <= late + 1e-6 for early, late in pairwise(shares))
        assert shares[-1] == pytest.approx(1, abs=1e-6)


@pytest.mark.rehearsal
def test_runs_of_a_sweep_share_what_is_the_same(tmp_path: Path) -> None:
    """Without a word of it: one dense network, scored once, one calibration; and the flag may stand anywhere."""
    quick = ("dense.epochs=1", "finetune.epochs=0", "prune.preset=quick")
    ended = run_here("prune.target_macs=0.7,0.5", "-m", *quick, folder=tmp_path)
    assert ended.status == 0, ended.stderr
    assert ended.stdout.count("dense training: ") == 1
    shared = sorted(path.name.split("-")[0] for path in (tmp_path / "sweep" / "shared").iterdir())
    assert shared == ["dense", "moments", "scores"]
    runs = [json.loads(path.read_text()) for path in sorted((tmp_path / "sweep").glob("[0-9]*/metrics.json"))]
    assert [entry["calibration/reused"] for entry in runs] == [False, True]
    dense = [{name: value for name, value in entry.items() if name.startswith("dense/")} for entry in runs]
    assert dense[0] == dense[1]
    assert dense[0].keys() >= {"dense/acc1_percent", "dense/val_acc1_percent", "dense/macs"}
    assert ended.stdout.rstrip().endswith("summary.html")


@pytest.mark.rehearsal
def test_a_cached_run_repeats_the_first(finished_run: tuple[Path, Ended], tmp_path: Path) -> None:
    """With dense weights and moments taken over, plan, pruned and fine-tuned weights are the same to the last bit."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for path in (*finished_run[0].glob("dense-*"), *finished_run[0].glob("moments-*")):
        shutil.copy(path, cache)
    ended = run_here(f"cache_dir={cache}", folder=tmp_path)
    assert ended.status == 0, ended.stderr
    assert ended.stdout.count("of an earlier run are used") == 2
    assert "random weights" not in ended.stdout
    said = json.loads((tmp_path / "run" / "run.json").read_text())["weights"]
    assert said.endswith("so the dense network was trained before")
    assert "| dense training | 1 epoch, " in (tmp_path / "run" / "report.md").read_text()
    for name in ("plan.json", "pruned.safetensors", "finetuned.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (finished_run[0] / name).read_bytes(), name


def test_a_trainer_that_lightning_refuses(tmp_path: Path) -> None:
    """A setting of a wrong type is a mistake with a name."""

    def trainer(**keywords: Any) -> Any:
        raise TypeError("devices should be a number")

    bench = JobTrainer(digits(), trainer, [], RunFolder(tmp_path))
    with pytest.raises(ValueError, match=r"^trainer: devices should be a number"):
        bench.trainer()
