"""Do a run's numbers reach W&B and the CSV file, and does W&B never stand in the way?"""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb
from pytorch_lightning.loggers import Logger

from snp.report.page import write_report
from snp.run.loggers import build_loggers, close_loggers, resolve_mode
from snp.run.tracking import track
from snp.run.training.history import TrainingTable, forget_curves
from tests.report.test_report import write_run


@pytest.fixture(autouse=True)
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a key, as a new user has it; return it."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for variable in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(variable, raising=False)
    return home


def read_back(folder: Path) -> dict[str, Any]:
    """What W&B's own reader finds in the offline run of a folder."""
    (run,) = (folder / "wandb").glob("offline-run-*")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--summary", "--json", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def build(folder: Path, csv: bool = False, wandb: str = "auto") -> list[Logger]:
    """The loggers of a run with fixed names."""
    return build_loggers(csv, wandb, "snp", "ablation", ["zca"], folder, {"prune": {"target_var": 0.95}, "seed": 0})


def records_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    """All records of one kind in the offline run of a folder, by W&B's own reader."""
    (run,) = (folder / "wandb").glob("offline-run-*")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [line[kind] for line in lines if line.get("type") == kind]


def finished(folder: Path) -> Path:
    """What a run leaves, written by hand, with the files that become artifacts."""
    metrics = {
        "dense/acc1_percent": 88.5, "dense/macs": 100, "pruned/acc1_percent": 80.0, "pruned/macs": 50,
        "finetuned/acc1_percent": 70.0, "prune/target_var": None, "cache/dense": "dense-1f.safetensors",
    }  # fmt: skip
    write_run(folder, metrics=metrics)
    facts = {"model": "tiny", "data": {"name": "digits"}, "commit": "abc", "config": {"prune": {"ordering": "auto"}}}
    plan = json.loads((folder / "plan.json").read_text())
    plan["settings"] |= {"target": {"macs": 0.5}, "planner": "snp"}
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / "run.json").write_text(json.dumps(facts))
    for name in ("dense-1f", "pruned", "finetuned"):
        (folder / f"{name}.safetensors").write_bytes(name.encode())
    write_report(folder)
    return folder


def test_offline_run_is_written_and_read_back(tmp_path: Path) -> None:
    """What was decided, curves, final numbers, groups and figures are found by W&B's own reader; its name says them."""
    folder = tmp_path / "run"
    loggers = build(folder)
    loggers[0].log_metrics({"finetune/train_loss": 0.25}, step=3)
    track(loggers, finished(folder))
    close_loggers(loggers)
    found = read_back(folder)
    assert (found["state"], found["project"]) == ("finished", "snp")
    assert found["name"] == "tiny digits macs 0.5 zca/variance seed 0"
    assert {"zca", "variance", "tiny", "digits", "target_macs"} <= set(found["tags"])
    # What was done stands where "auto" was typed; what was typed elsewhere stays.
    assert found["config"]["prune"] | {"ordering": "zca", "cut": "variance"} == found["config"]["prune"]
    assert (found["config"]["seed"], found["config"]["facts"]["commit"]) == (0, "abc")
    summary = found["summary"]
    assert (summary["dense/acc1_percent"], summary["pruned/macs"], summary["finetune/train_loss"]) == (88.5, 50, 0.25)
    assert "prune/target_var" not in summary
    assert summary["figures/widths"]["_type"] == "image-file"
    assert summary["groups"]["nrows"] == 3
    assert records_of(folder, "run")[0]["job_type"] == "prune"


def test_artifacts_hold_plan_and_weights(tmp_path: Path) -> None:
    """Dense and small networks are artifacts; the small one names what it was made from, and the better weights."""
    folder = tmp_path / "run"
    loggers = build(folder)
    track(loggers, finished(folder))
    close_loggers(loggers)
    found = {record["name"]: record for record in records_of(folder, "artifact")}
    dense, small = found["tiny-digits-dense"], found["tiny-digits-pruned"]
    files = {entry["path"] for entry in small["manifest"]["contents"]}
    assert {"plan.json", "pruned.safetensors", "finetuned.safetensors", "report.html", "model_card.md"} <= files
    metadata = json.loads(small["metadata"])
    assert metadata["better"] == "pruned"
    assert metadata["made_from"] == "tiny-digits-dense"
    assert metadata["made_from_sha256"] == json.loads(dense["metadata"])["sha256"]
    assert metadata["pruned/acc1_percent"] == 80.0


def test_artifacts_without_a_place_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where W&B cannot write copies of files, as in a home that belongs to others, it is said; numbers are there."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "file" / "data"))
    folder = tmp_path / "run"
    loggers = build(folder)
    track(loggers, finished(folder))
    close_loggers(loggers)
    assert "note: W&B did not take all of this run" in capsys.readouterr().out
    assert read_back(folder)["summary"]["dense/acc1_percent"] == 88.5
    assert records_of(folder, "artifact") == []


def test_secrets_stay_here(tmp_path: Path) -> None:
    """Nothing that looks like a key leaves the machine with the settings."""
    folder = tmp_path / "run"
    config = {"hub": {"token": "very-secret"}, "data": {"tokenizer": "folder"}}
    loggers = build_loggers(False, "offline", "snp", None, [], folder, config)
    track(loggers, finished(folder))
    close_loggers(loggers)
    assert read_back(folder)["config"]["data"] == {"tokenizer": "folder"}
    assert all(b"very-secret" not in path.read_bytes() for path in (folder / "wandb").rglob("*") if path.is_file())


def test_second_run_of_a_process_is_its_own(tmp_path: Path) -> None:
    """After `close_loggers` the next run in the same process does not write into the first one."""
    for name, value in (("first", 1.0), ("second", 2.0)):
        loggers = build(tmp_path / name, wandb="offline")
        loggers[0].log_metrics({name: value})
        close_loggers(loggers)
    assert "second" not in read_back(tmp_path / "first")["summary"]
    assert read_back(tmp_path / "second")["summary"]["second"] == 2.0


def test_a_run_that_failed_is_closed_as_one(tmp_path: Path) -> None:
    """The next run of the process gets its own; one that never began leaves nothing."""
    begun, unused = build(tmp_path / "begun"), build(tmp_path / "unused")
    begun[0].log_metrics({"a": 1.0})
    close_loggers([*begun, *unused], has_failed=True)
    assert wandb.run is None
    assert [record["exit_code"] for record in records_of(tmp_path / "begun", "exit")] == [1]
    assert not (tmp_path / "unused" / "wandb").exists()


def test_auto_is_offline_with_one_line_without_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a key "auto" means offline, and says so in exactly one line."""
    assert resolve_mode("auto") == "offline"
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "offline" in printed
    assert "wandb sync" in printed


@pytest.mark.parametrize("place", ["variable", "netrc", "named netrc"])
def test_auto_is_online_with_a_key(
    place: str, no_account: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key in the environment or in a netrc file makes "auto" online, silently."""
    entry = "machine api.wandb.ai\n  login user\n  password " + "a" * 40 + "\n"
    if place == "variable":
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    else:
        path = no_account / (".netrc" if place == "netrc" else "keys")
        path.write_text(entry)
        path.chmod(0o600)
        if place == "named netrc":
            monkeypatch.setenv("NETRC", str(path))
    assert resolve_mode("auto") == resolve_mode("online") == "online"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", ["machine elsewhere.org login user password secret\n", "machine\n"])
def test_other_netrc_entries_are_no_key(no_account: Path, content: str) -> None:
    """An entry for another server, or a broken file, leaves "auto" offline."""
    (no_account / ".netrc").write_text(content)
    (no_account / ".netrc").chmod(0o600)
    assert resolve_mode("auto") == "offline"


@pytest.mark.parametrize(
    ("variable", "mode"), [("offline", "offline"), ("dryrun", "offline"), ("disabled", "disabled")]
)
@pytest.mark.parametrize("setting", ["auto", "online", "offline"])
def test_environment_wins(monkeypatch: pytest.MonkeyPatch, variable: str, mode: str, setting: str) -> None:
    """WANDB_MODE wins over every setting that uses W&B."""
    monkeypatch.setenv("WANDB_MODE", variable)
    assert resolve_mode(setting) == mode


def test_run_without_wandb_stays_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that chose no W&B gets no W&B logger, whatever the environment says."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert [type(logger) for logger in build(tmp_path, csv=True, wandb="disabled")] == [TrainingTable]
    assert build(tmp_path, wandb="disabled") == []


def test_csv_holds_the_curves(tmp_path: Path) -> None:
    """One table under the run folder, which a later start goes on with, after the rows that it writes anew are gone."""
    for step, value in ((3, 0.5), (7, 0.25), (7, 0.125)):
        (logger,) = build(tmp_path, csv=True, wandb="disabled")
        forget_curves([logger], "finetune", 7)
        logger.log_metrics({"finetune/train_loss": value}, step=step)
        logger.log_metrics({"dense/train_loss": value}, step=step)
    (table,) = (tmp_path / "training").glob("*/metrics.csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    kept = [(row["step"], row["finetune/train_loss"]) for row in rows if row["finetune/train_loss"]]
    assert kept == [("3", "0.5"), ("7", "0.125")]
    assert [row["dense/train_loss"] for row in rows if row["dense/train_loss"]] == ["0.5", "0.25", "0.125"]


@pytest.mark.parametrize(
    ("settings", "phrase"),
    [
        ({"wandb": "on"}, "logger.wandb must be one of auto, online, offline, disabled, found 'on'"),
        ({"wandb": "online"}, "logger.wandb=online needs an API key"),
        ({"project": ""}, "logger.project must be a W&B project name"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, settings: dict[str, Any], phrase: str) -> None:
    """Unknown modes, a missing key and an empty project are refused in one sentence."""
    arguments = {"csv": False, "wandb": "offline", "project": "snp", "group": None, "tags": [], "config": {}}
    with pytest.raises(ValueError, match=phrase):
        build_loggers(**{**arguments, "run_dir": tmp_path, **settings})


def test_unknown_mode_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt WANDB_MODE is refused with the choices."""
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(ValueError, match=r"WANDB_MODE in the environment must be one of online, .*found 'ofline'"):
        resolve_mode("auto")


QUIET_RUN = """
import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from snp.run.training.learner import Classifier, TrainingRecipe
from snp.run.loggers import quiet_libraries

quiet_libraries()
data = TensorDataset(torch.randn(12, 4), torch.arange(12) % 3)
loader = DataLoader(data, batch_size=4)
trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, log_every_n_steps=10,
                  enable_progress_bar=False, enable_model_summary=False)
trainer.fit(Classifier(nn.Linear(4, 3), 3, TrainingRecipe(1, 0.1)), loader, loader)
"""


def test_libraries_are_quiet(tmp_path: Path) -> None:
    """A whole training run prints nothing: no advertisement, device list or hint."""
    script = tmp_path / "train.py"
    script.write_text(QUIET_RUN)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
