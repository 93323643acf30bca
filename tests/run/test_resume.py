"""Does a run that was interrupted, at whatever moment, end as it would have without that, when it is started again?"""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from snp.run import folder as run_folder
from snp.run.stopping import Stopped
from tests.command_line import ROOT, TINY, Ended, environment, run_here

pytestmark = pytest.mark.filterwarnings("default")

OPTIONS = (
    "dense.epochs=2", "finetune.epochs=2", "finetune.distil=0.5", "finetune.average=0.8", "finetune.by_cut=true",
    "trainer.enable_progress_bar=auto",
)  # fmt: skip
LOGGED = ("logger=csv", *OPTIONS)
SAME = ("plan.json", "pruned.safetensors", "finetuned.safetensors", "variance.csv", "data.json")


def left_by(folder: Path) -> dict[str, Any]:
    """What an interruption must not change: plan, weights, and numbers other than times."""
    metrics = json.loads((folder / "metrics.json").read_text())
    timed = ("time/", "latency/", "memory/", "calibration/reused")
    numbers = {name: value for name, value in metrics.items() if not name.startswith(timed)}
    return {name: (folder / name).read_bytes() for name in SAME} | {"numbers": numbers}


def curves(folder: Path) -> dict[tuple[str, str], str]:
    """(Name, step) -> number, of the one table of a run folder; none stands there twice."""
    (table,) = (folder / "training").glob("*/metrics.csv")
    with table.open(newline="") as file:
        found = [
            ((name, row["step"]), text)
            for row in csv.DictReader(file)
            for name, text in row.items()
            if text and name not in ("step", "epoch")
        ]
    assert len(found) == len(dict(found))
    return dict(found)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    ended = run_here(*LOGGED, folder=folder)
    assert ended.status == 0, ended.stderr
    return folder / "run"


def stopped_at(words: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    """A run that is told to stop when it says these words."""
    told = run_folder.tell

    def tell(text: str) -> None:
        told(text)
        if words in text:
            raise Stopped(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "tell", tell)
        ended = run_here(*LOGGED, *options, folder=folder)
    assert ended.status == 143, ended
    assert re.search(r"stopped by SIGTERM; to go on: python run.py .*hydra.run.dir=\S*run$", ended.stderr.strip())


@pytest.mark.rehearsal
@pytest.mark.timeout(900)
def test_a_run_that_is_stopped_five_times(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of both trainings, between stages and while it scores: each start goes on where the last one ended.

    Its curves are one table with the numbers of a run without interruptions; what is not trained has none.
    """
    stopped_at("dense: epoch 2", tmp_path, monkeypatch)
    assert list((tmp_path / "run" / "checkpoints").glob("dense-*/last.ckpt"))
    stopped_at("groups with", tmp_path, monkeypatch)
    stopped_at("in turns", tmp_path, monkeypatch)
    stopped_at("finetune: epoch 2", tmp_path, monkeypatch)
    stopped_at("finetuned: ", tmp_path, monkeypatch)
    ended = run_here(*LOGGED, folder=tmp_path)
    assert ended.status == 0, ended.stderr
    assert "dense training" not in ended.stdout
    assert "groups with" not in ended.stdout
    assert "finetune training: 2 epochs, going on from" in ended.stdout
    assert left_by(tmp_path / "run") == left_by(whole)
    assert {name for name, _ in curves(whole)} >= {"dense/val_loss", "finetune/val_loss", "finetune/train_loss"}
    assert curves(tmp_path / "run") == curves(whole)
    assert not (tmp_path / "run" / "checkpoints").exists()
    again = run_here(*LOGGED, folder=tmp_path)
    assert "training:" not in again.stdout
    assert left_by(tmp_path / "run") == left_by(whole)
    (tmp_path / "run" / "export").mkdir()
    (tmp_path / "run" / "export" / "model.onnx").touch()
    stopped_at("finetune: epoch 2", tmp_path, monkeypatch, "finetune.keep=best", "overwrite=true")
    for name in ("finetuned.safetensors", "report.html", "model_card.md", "export/model.onnx"):  # of other settings
        assert not (tmp_path / "run" / name).exists(), name
    other = run_here(*LOGGED, "finetune.keep=best", folder=tmp_path)
    assert '"keep": "best"' in (tmp_path / "run" / "run.json").read_text()
    assert "finetune training: 2 epochs, going on from" in other.stdout
    assert left_by(tmp_path / "run")["pruned.safetensors"] == (whole / "pruned.safetensors").read_bytes()
    damage(tmp_path / "run" / "pruned.safetensors")
    assert "groups with" in run_here(*LOGGED, "overwrite=true", folder=tmp_path).stdout
    assert left_by(tmp_path / "run") == left_by(whole)
    assert run_here(*LOGGED, "finetune.epochs=0", "overwrite=true", folder=tmp_path).status == 0
    assert {name.split("/")[0] for name, _ in curves(tmp_path / "run")} == {"dense"}


def damage(path: Path) -> None:
    """Flip a bit."""
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    """The second is refused by one sentence, changes no note of the first one's options, and only while that lives."""
    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("- seed=1\n")
    lock = f"lock = FileLock({str(folder / '.lock')!r}); lock.acquire()"
    code = f"from filelock import FileLock; import time; {lock}; print(1, flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    ended = run_here("prune.dry_run=true", folder=tmp_path)
    holder.kill()
    holder.communicate()
    assert ended.status == 2
    assert re.search(r"error: run_dir=\S+: another run is writing there", ended.stderr)
    assert (folder / ".hydra" / "overrides.yaml").read_text() == "- seed=1\n"
    assert run_here("prune.dry_run=true", folder=tmp_path).status == 0


def begin(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Start a run in a process of its own."""
    command = [sys.executable, str(ROOT / "run.py"), *TINY, *OPTIONS, "logger=none", "hydra.run.dir=run", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=environment(folder), text=True, **pipes)


@pytest.mark.parametrize(("rank", "status", "lines"), [("0", 143, 1), ("1", 0, 0)])
def test_stopped_while_torch_is_loaded(rank: str, status: int, lines: int, tmp_path: Path) -> None:
    """Nothing loads it once more, which would be a segmentation fault; the first process says how to go on."""
    (tmp_path / "torch.py").write_text("import os\nprint('loaded')\nos.kill(os.getpid(), 15)")
    command = [sys.executable, str(ROOT / "run.py"), *TINY, "hydra.run.dir=run"]
    variables = {**environment(tmp_path), "PYTHONPATH": str(tmp_path), "LOCAL_RANK": rank}
    ended = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout.split()) == (status, ["loaded"]), ended
    assert ended.stderr.count(f"stopped by SIGTERM; to go on: python run.py {TINY[0]}") == lines
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(number: signal.Signals, status: int, tmp_path: Path) -> None:
    """The process ends with the status that shells expect, and its last line is the command that goes on."""
    process = begin(tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if "epoch 1 of 2" in line:
            break
    os.kill(process.pid, number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == status, stderr
    assert f"hydra.run.dir={tmp_path}/run" in stderr.strip().splitlines()[-1]
    assert "Traceback" not in stderr


@pytest.mark.slow
def test_two_processes_are_stopped_and_go_on(tmp_path: Path) -> None:
    """The first process ends the second one with it, and both go on from the same checkpoint."""
    options = ("trainer=ddp_cpu", "dense.epochs=4", "finetune.epochs=0")
    process = begin(tmp_path, *options)
    assert process.stdout is not None
    for line in process.stdout:
        if "epoch 2 of 4" in line:
            break
    os.kill(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)  # the second process holds the pipes, too
    assert process.returncode == 143, stderr
    assert "Traceback" not in stderr
    process = begin(tmp_path, *options)
    stdout, stderr = process.communicate(timeout=250)
    assert process.returncode == 0, stderr
    assert "dense training: 4 epochs, going on from" in stdout


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_run_that_is_killed_twenty_times(whole: Path, tmp_path: Path) -> None:
    """Killed without warning, at moments that move on, the same command ends with the same artefacts."""
    started = time.monotonic()
    process = begin(tmp_path)
    process.communicate(timeout=600)
    lasts = time.monotonic() - started
    assert left_by(tmp_path / "run") == left_by(whole)
    for path in sorted((tmp_path / "run").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    killed = 0
    for attempt in range(20):
        process = begin(tmp_path)
        try:
            process.communicate(timeout=lasts * (attempt + 1) / 21)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
    process = begin(tmp_path)
    ended = Ended(process.wait(timeout=600), *(stream.read() for stream in (process.stdout, process.stderr) if stream))
    assert ended.status == 0, ended
    assert killed > 10
    assert left_by(tmp_path / "run") == left_by(whole)
