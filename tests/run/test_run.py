"""Does the command line keep its promises: artefacts, last words, exit status, and no harm done by mistakes?"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import snp
from snp.data.digits import Digits
from snp.models.sources.weights import write_tensors
from snp.report.findings import findings
from snp.report.record import read_record
from snp.run.optimised import numbers_of_a_stage, refuse_missing_numbers
from snp.run.options import objective
from snp.run.root import asked_numbers
from snp.run.training.recipe import TrainingRecipe
from snp.settings import PruneSettings
from tests.command_line import ARTEFACTS, ROOT, Ended, run, run_here, start, wait

# The libraries below warn of themselves; what a user sees is looked at in the runs that are processes of their own.
pytestmark = pytest.mark.filterwarnings("default")

STAGES = ("dense", "pruned", "finetuned")
NUMBERS = ("acc1_percent", "macs", "params", "size_bytes")
OTHERS = (
    "time/calibrate_s",
    "time/forward_s",
    "time/plan_s",
    "time/prune_s",
    "time/finetune_s",
    "calibration/samples",
    "prune/target_var",
    "prune/threshold",
)
# What libraries say of themselves without being asked.
CHATTER = ("wandb:", "No CUDA runtime is found")


def metrics_of(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    """Everything in a folder but Hydra's own notes."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".hydra" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name != "run.log"}


def assert_refused(ended: Ended, *words: str) -> None:
    assert ended.status == 2, ended
    lines = [line for line in ended.stderr.splitlines() if not any(noise in line for noise in CHATTER)]
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("error: ")
    assert "Traceback" not in ended.stdout + ended.stderr
    for word in words:
        assert word in lines[0], (word, lines[0])


def test_a_run_leaves_all_artefacts(finished_run: tuple[Path, Ended]) -> None:
    """The run folder holds moments, plan, weights, numbers, and a report whose figures are there."""
    folder, _ = finished_run
    for name in ARTEFACTS:
        (path,) = folder.glob(name)
        assert path.stat().st_size > 0, name
    figures = re.findall(r"\]\((figures/[^)]+\.png)\)", (folder / "report.md").read_text())
    assert len(figures) == 4
    assert all((folder / figure).stat().st_size > 1000 for figure in figures)
    assert not list(folder.glob("*.part*"))


def test_the_numbers_of_a_run(finished_run: tuple[Path, Ended]) -> None:
    """metrics.json is flat, has every promised name, and the small network meets its budget."""
    metrics = metrics_of(finished_run[0])
    for name in (*(f"{stage}/{number}" for stage in STAGES for number in NUMBERS), *OTHERS):
        assert name in metrics
        assert metrics[name] is None or isinstance(metrics[name], int | float), name
    assert metrics["prune/target_var"] is None
    assert metrics["calibration/samples"] == 65
    assert metrics["pruned/macs"] <= 0.5 * metrics["dense/macs"]
    assert metrics["finetuned/macs"] == metrics["pruned/macs"]
    assert metrics["finetuned/acc1_percent"] > 20
    assert all(value >= 0 for name, value in metrics.items() if name.startswith("time/"))


def test_the_last_words_of_a_run(finished_run: tuple[Path, Ended]) -> None:
    """Standard output ends with the table of the stages and the run folder; nothing warns the user."""
    folder, ended = finished_run
    lines = ended.stdout.splitlines()
    assert lines[-1] == f"Run folder: {folder}"
    table = "\n".join(lines[-20:-1])
    assert all(word in table for word in ("dense", "pruned", "finetuned", "MACs", "Latency", "Accuracy"))
    noise = [line for line in ended.stderr.splitlines() if not any(known in line for known in CHATTER)]
    assert noise == []


def test_what_the_page_warns_of_is_said_on_the_terminal_too(finished_run: tuple[Path, Ended]) -> None:
    """Every warning of the page, before the table, and in run.log."""
    folder, ended = finished_run
    warnings = findings(read_record(folder))
    assert any("Only 65 calibration samples" in sentence for sentence in warnings)
    for text in (ended.stdout, (folder / "run.log").read_text()):
        assert [text.count(f"[snp] note: {sentence.replace('`', '')}\n") for sentence in warnings] == [1] * len(
            warnings
        )


def test_bars_count_epochs_from_one(finished_run: tuple[Path, Ended]) -> None:
    """With the stage in front of them."""
    shown = finished_run[1].stdout
    assert "dense: epoch 1 of 1" in shown
    assert "finetune: epoch 1 of 1" in shown
    assert "Epoch 0" not in shown
    assert "1 epochs" not in shown + (finished_run[0] / "report.md").read_text()


def test_a_run_without_an_account(finished_run: tuple[Path, Ended]) -> None:
    """W&B needs no account: one printed line says that the run is recorded offline, and it is."""
    folder, ended = finished_run
    assert len([line for line in ended.stdout.splitlines() if "offline" in line]) == 1
    assert len(list(folder.glob("wandb/offline-run-*/*.wandb"))) == 1


def test_every_number_can_be_optimised(finished_run: tuple[Path, Ended]) -> None:
    """What a run records is what may be asked for, one name or several, of a network exactly what is known of it."""
    found = metrics_of(finished_run[0])
    data, finetune = Digits(), TrainingRecipe(epochs=1, learning_rate=0.1)
    names = [name for name, value in found.items() if not isinstance(value, str)]
    refuse_missing_numbers(names, data, PruneSettings(), finetune)
    for stage in STAGES:
        assert {name.split("/")[1] for name in names if name.startswith(f"{stage}/")} == {*numbers_of_a_stage(data)}
    assert objective(found, asked_numbers("pruned/macs")) == found["pruned/macs"]
    assert objective(found, asked_numbers(["pruned/macs", "dense/macs"])) == (found["pruned/macs"], found["dense/macs"])
    assert asked_numbers(None) is asked_numbers([]) is None


def test_a_folder_that_is_called_by_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is text, as any folder's."""
    monkeypatch.chdir(tmp_path)
    ended = run_here("run_dir=2024", "cache_dir=7", "prune.target_macs=0.0001", folder=tmp_path)
    assert_refused(ended, "prune.target_macs=0.0001 cannot be reached")
    assert (tmp_path / "2024").is_dir()
    assert (tmp_path / "7").is_dir()


def test_the_networks_come_back(finished_run: tuple[Path, Ended]) -> None:
    """snp.load gives the pruned and the fine-tuned network: of the reported size, and different from each other."""
    folder, _ = finished_run
    pruned, finetuned = snp.load(folder), snp.load(folder, weights="finetuned")
    images = torch.randn(2, 3, 8, 8)
    assert pruned(images).shape == (2, 10)
    assert not torch.equal(pruned(images), finetuned(images))
    size = sum(parameter.numel() for parameter in pruned.parameters())
    assert size == metrics_of(folder)["pruned/params"] < metrics_of(folder)["dense/params"]


def test_a_second_run_in_the_same_folder(finished_run: tuple[Path, Ended], tmp_path: Path) -> None:
    """It is refused; with overwrite=true what fits is used again, and nothing that belongs to the first plan stays."""
    again = tmp_path / "run"
    shutil.copytree(finished_run[0], again)
    before = contents(again)
    refused = run_here("prune.target_macs=0.8", "finetune.epochs=0", folder=tmp_path)
    assert_refused(refused, "prune.target_macs was None and is 0.8", "finetune.epochs was 1 and is 0", "overwrite=true")
    assert contents(again) == before
    ended = run_here("prune.target_macs=0.8", "finetune.epochs=0", "overwrite=true", folder=tmp_path)
    assert ended.status == 0, ended.stderr
    assert "training" not in ended.stdout.replace("dense network is trained", "")
    after, metrics = contents(again), metrics_of(again)
    for name in (name for name in before if name.startswith(("moments-", "dense-"))):
        assert after[name] == before[name]
    assert after["plan.json"] != before["plan.json"]
    assert metrics["calibration/reused"] is True
    assert metrics["dense/acc1_percent"] == metrics_of(finished_run[0])["dense/acc1_percent"]
    assert "finetuned.safetensors" not in after
    assert not any(name.startswith("finetuned/") or name == "time/finetune_s" for name in metrics)
    assert snp.load(again)(torch.randn(1, 3, 8, 8)).shape == (1, 10)


@pytest.mark.rehearsal
def test_a_plan_that_is_not_whole_is_made_again(finished_run: tuple[Path, Ended], tmp_path: Path) -> None:
    """A folder whose plan was cut short is no dead end: the same command decides again, and the same."""
    again = tmp_path / "run"
    shutil.copytree(finished_run[0], again)
    plan = (again / "plan.json").read_text()
    (again / "plan.json").write_text(plan[: len(plan) // 2])
    ended = run_here(folder=tmp_path)
    assert ended.status == 0, ended.stderr
    assert (again / "plan.json").read_text() == plan
    assert contents(again)["pruned.safetensors"] == contents(finished_run[0])["pruned.safetensors"]


@pytest.mark.rehearsal
def test_two_runs_at_once_with_one_seed(finished_run: tuple[Path, Ended], tmp_path: Path) -> None:
    """Runs started together get folders of their own, and a seed repeats the plan exactly, from training on."""
    processes = [start("finetune.epochs=0", "logger=none", cwd=tmp_path) for _ in range(2)]
    assert [wait(process).status for process in processes] == [0, 0]
    plans = sorted((tmp_path / "outputs").rglob("plan.json"))
    assert len(plans) == 2
    suffixes = {re.fullmatch(r"\d\d-\d\d-\d\d-([0-9a-f]{6})", path.parent.name)[1] for path in plans}  # type: ignore[index]
    assert len(suffixes) == 2
    texts = {path.read_text() for path in (*plans, finished_run[0] / "plan.json")}
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["prune.ordering=zcaa"], "prune.ordering must be one of"),
        *(
            (["finetune.epochs=0", f"overwrite={word}"], f"overwrite must be true or false, found {found}")
            for word, found in (("no", "'no'"), ("off", "'off'"), ("maybe", "'maybe'"), ("[]", "[]"), ("0", "0"))
        ),
        (["prune.target_macs=0.0001", "overwrite=true"], "prune.target_macs=0.0001 cannot be reached"),
    ],
)
def test_mistakes_leave_a_finished_run_alone(
    options: list[str], said: str, finished_run: tuple[Path, Ended], tmp_path: Path
) -> None:
    """A mistake in a second run, found early or late, changes no file of the first."""
    again = tmp_path / "run"
    shutil.copytree(finished_run[0], again)
    before = contents(again)
    ended = run_here(*options, folder=tmp_path)
    assert_refused(ended, said)
    assert "calibrat" not in ended.stdout
    assert "moments" not in ended.stdout
    assert contents(again) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("model=timm", ["model.name"]),
        ("model=timm model.name=resnett18", ["resnett18", "resnet18"]),
        ("model=resnet50 data=imagenet data.root=/nowhere", ["model.checkpoint=PATH"]),
        ("model.checkpoint=/nowhere.safetensors", ["model.checkpoint=/nowhere.safetensors"]),
        ("model.arguments.depth=21", ["model.arguments.depth=21"]),
        ("data=cifar10", ["data.root"]),
        ("data=cifar10 data.root=/nowhere", ["data.root=/nowhere"]),
        ("data.batch_size=many", ["data.batch_size must be a whole number", "many"]),
        ("+nope=1", ["nope"]),
        ("+prune.nope=1", ["nope"]),
        ("calibration.samples=0", ["calibration.samples"]),
        ("calibration.products=float16", ["calibration.products"]),
        ("prune.target_macs=0.5 prune.target_var=0.9", ["prune.target_macs", "prune.target_var"]),
        ("prune.target_macs=1.5", ["prune.target_macs", "1.5"]),
        ("prune.target_macs=0.0001", ["prune.target_macs=0.0001 cannot be reached", "Ask for that or more"]),
        ("prune.target_params=0.0001", ["prune.target_params=0.0001 cannot be reached"]),
        ("prune.ignore=['*']", ["nothing in", "can be cut"]),
        ("prune.target_units=0.5 prune.cut=variance", ["prune.target_units", "prune.cut=uniform"]),
        ("prune.preset=quick prune.trials=true", ["prune.trials=true goes against prune.preset=quick", "to false"]),
        ("prune.mirrored=auto experiment=paper_vgg16", ["prune.mirrored=auto goes against prune.preset=paper"]),
        ("prune.ordering=nope", ["prune.ordering", "zca"]),
        ("prune.cut=nope", ["prune.cut", "variance"]),
        ("prune.planner=nope", ["prune.planner", "snp"]),
        ("dense.optimizer=lion", ["dense.optimizer"]),
        ("finetune.epochs=-1", ["finetune.epochs"]),
        ("seed=5000000000", ["seed"]),
        ("trainer.devices=all", ["devices"]),
        ("trainer.accelerator=abacus", ["abacus"]),
        ("cache_dir=/sys/kernel", ["cache_dir=/sys/kernel", "written"]),
        ("trainer.precision=bf16-true", ["trainer.precision=bf16-true", "bf16-mixed"]),
        ("trainer=ddp_cpu calibration.samples=1", ["calibration.samples=1", "2 processes"]),
        ("cache_dir=/dev/null", ["cache_dir=/dev/null"]),
        ("run_dir=/dev/null", ["run_dir=/dev/null"]),
        ("prune.reconstruct=tuned calibration.samples=15", ["prune.reconstruct=tuned", "16 or more", "found 15"]),
        (
            "prune.structures=[ffn,blocks] prune.target_latency=0.7 calibration.samples=127",
            ["prune.structures with blocks", "128 calibration samples or more; found 1"],
        ),
        ("dense.keep=best data.val_fraction=0", ["dense.keep=best needs validation samples"]),
        ("finetune.keep=best data.val_fraction=0", ["finetune.keep=best needs validation samples"]),
        ("logger=wandb logger.wandb=loud", ["logger.wandb", "loud"]),
        ("+model.arguments.foo=5", ["model.arguments has no foo; there are depth"]),
        ("~model.arguments.depth", ["model.arguments.depth is not given"]),
        ("trainer.precision=17", ["trainer.precision must be one of 32-true, 16-mixed, bf16-mixed, found 17"]),
        ("trainer.limit_train_batches=foo", ["error: trainer.limit_train_batches must be", "number or null", "'foo'"]),
        ("trainer.limit_test_batches=2.5", ["error: trainer.limit_test_batches=2.5: "]),
        ("trainer.limit_test_batches=0", ["error: trainer.limit_test_batches=0: networks are scored on test batches"]),
        (
            "trainer.limit_train_batches=0 finetune.epochs=0",
            ["trainer.limit_train_batches=0 trains nothing", "dense.ep"],
        ),
        ("trainer.sync_batchnorm=no", ["error: trainer.sync_batchnorm must be true or false, found 'no'"]),
        ("finetune.where=dense", ["error: finetune.where names the stage", "leave it out; found 'dense'"]),
        ("data.val_fraction=x", ["error: data.val_fraction must be a number in [0, 1), found 'x'"]),
        ("run_dir=[a,b]", ["run_dir must be one path, found ['a', 'b']"]),
        ("run_dir=2024.10", ["run_dir must be one path, found 2024.1;", "./NAME"]),
        ("cache_dir=[]", ["cache_dir must be one path, found []"]),
        ("optimise=5", ["optimise must be a number's name", "null, found 5"]),
        ("optimise=macs", ["optimise=macs:", "STAGE/NAME", "finetuned/macs", "no stage is called 'macs'"]),
        ("optimise=prune/macs", ["optimise=prune/macs: did you mean pruned/macs?"]),
        ("optimise=time/plan", ["optimise=time/plan: the numbers of time are", "did you mean plan_s?"]),
        ("optimise=[pruned/macs,finetuned/acc]", ["optimise=finetuned/acc: the numbers of finetuned are acc1_percent"]),
        ("optimise=finetuned/macs finetune.epochs=0", ["optimise=finetuned/macs", "finetune.epochs=0"]),
        ("optimise=tuned/macs", ["optimise=tuned/macs", "prune.reconstruct=tuned", "dense, pruned, finetuned"]),
        ("optimise=pruned/val_acc1_percent data.val_fraction=0", ["optimise=pruned/val_acc1_percent", "val_fraction"]),
    ],
)
def test_mistakes_are_explained_at_once(options: str, words: list[str], tmp_path: Path) -> None:
    """One line on standard error names the argument, the exit status is 2, and nothing was trained before."""
    ended = run_here(*options.split(), folder=tmp_path)
    assert_refused(ended, *words)
    assert "training" not in ended.stdout


def test_more_calibration_samples_than_there_are(tmp_path: Path) -> None:
    """All there are, less the repeats, and the run says so once."""
    ended = run_here("calibration.samples=5000", "prune.target_macs=0.0001", folder=tmp_path)
    said = [line for line in ended.stdout.splitlines() if "5000" in line]
    assert said == ["[snp] calibration.samples=5000: the training part has 1,294; all of them are taken"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prune.target_macs=0.5,1.5"], ["prune.target_macs must be", "1.5"]),
        (["prune.target_macs=0.5", "prune.ordering=zca,zcaa"], ["prune.ordering must be one of", "zcaa"]),
        (["seed=0,5000000000"], ["seed must be"]),
        (["data.batch_size=64,0"], ["data.batch_size=0"]),
        (["prune.preset=best,quick", "prune.tilt=true"], ["prune.tilt=true goes against prune.preset=quick"]),
        (
            ["prune.target_macs=0.5,null", "prune.target_var=null,0.9"],
            ["prune.target_var and prune.target_macs exclude"],
        ),
        (["experiment=ratios", "finetune.keep=last,bst"], ["finetune.keep must be"]),
        (["seed=0,1", "overwrite=false,no"], ["overwrite must be true or false, found 'no'"]),
        (["seed=0,1", "cache_dir=[a]"], ["cache_dir must be one path, found ['a']"]),
        (["seed=0,1", "dense.where=finetune"], ["dense.where names the stage"]),
        (["seed=0,1", "optimise=macs"], ["optimise=macs", "STAGE/NAME"]),
        (["finetune.epochs=1,0", "optimise=[pruned/macs,finetuned/macs]"], ["optimise=finetuned/macs", "epochs=0"]),
    ],
)
def test_a_bad_value_of_a_later_job_stops_the_first(words: list[str], said: list[str], tmp_path: Path) -> None:
    """All jobs' settings are made before any job starts; nothing was trained, and no folder of a job is there."""
    ended = run_here("-m", *words, folder=tmp_path)
    assert_refused(ended, *said)
    assert ended.stdout == ""
    assert not list(tmp_path.glob("sweep/*"))


def test_images_that_lie_in_two_classes_are_said_once(tmp_path: Path) -> None:
    """Before anything is trained, with an example."""
    for number in range(16):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (10 * number, 0, 0)).save(path)
    shutil.copy(tmp_path / "photos" / "a" / "2.png", tmp_path / "photos" / "b")
    words = ("data=image_folder", f"data.root={tmp_path / 'photos'}", "data.num_workers=0", "prune.target_macs=0.0001")
    ended = run_here(*words, folder=tmp_path)
    assert ended.stdout.count("[snp] note: 1 image lies in two classes (a/2.png and b/2.png)") == 1
    assert_refused(ended, "cannot be reached")


@pytest.mark.parametrize("option", ["prune.target_vr=0.9", "model=nope", "prune.ordering=a,b"])
def test_options_that_hydra_refuses(option: str, tmp_path: Path) -> None:
    """Hydra's own refusals name the option and end with the same status."""
    ended = run_here(option, folder=tmp_path)
    assert ended.status == 2
    assert "Traceback" not in ended.stderr
    assert option.split("=")[0] in ended.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    """The option is named, and the one that works."""
    assert_refused(run_here("trainer=gpu", folder=tmp_path), "trainer.accelerator=gpu", "trainer=auto")


FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from snp.run.errors import guarded
from {module} import write_tensors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))  # no file grows beyond: the disk is full
guarded(write_tensors)({{"a": torch.ones(100000)}}, Path(sys.argv[1]))
"""


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """One sentence names the file, what was there before stays, and nothing half-written is left."""
    path = tmp_path / "weights.safetensors"
    write_tensors({"a": torch.zeros(2)}, path)
    before = path.read_bytes()
    code = FULL.format(module=write_tensors.__module__)
    ended = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2, ended
    assert ended.stderr.startswith(f"error: {path} cannot be written: ")
    assert "Traceback" not in ended.stderr
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_misspelt_option_of_a_real_process(tmp_path: Path) -> None:
    """The exit status reaches the shell."""
    ended = run("prune.target_vr=0.9", cwd=tmp_path)
    assert ended.status == 2
    assert "prune.target_vr" in ended.stderr
    assert not (tmp_path / "outputs").exists()


def test_activations_that_are_not_finite(finished_run: tuple[Path, Ended], tmp_path: Path) -> None:
    """Weights that are not finite are named before anything is measured."""
    weights = load_file(next(finished_run[0].glob("dense-*.safetensors")))
    weights["layer2.0.bn1.weight"].fill_(float("inf"))
    save_file(weights, tmp_path / "broken.safetensors")
    ended = run_here(f"model.checkpoint={tmp_path}/broken.safetensors", "finetune.epochs=0", folder=tmp_path)
    assert_refused(ended, "layer2.0.bn1.weight")


def test_help_and_composed_options(tmp_path: Path) -> None:
    """--help lists the choices, --cfg prints all options as composed."""
    listed = run_here("--help", folder=tmp_path)
    assert listed.status == 0
    for stem in (path.stem for path in (ROOT / "conf" / "model").glob("*.yaml")):
        assert stem in listed.stdout
    composed = run_here("--cfg", "job", folder=tmp_path)
    assert composed.status == 0
    assert "target_macs: null" in composed.stdout
