"""Does a sweep outlive a run that fails: are the others run, are there pages, and does the same command go on?"""

import json
from pathlib import Path

import pytest

from snp.run.errors import say
from snp.run.folder import RunFolder
from snp.run.replacing import refuse_replacing
from snp.run.sweep import Sweep
from tests.command_line import run_here
from tests.report.test_report import read_table
from tests.report.test_summary import SCORES, swept

QUICK = ("finetune.epochs=0", "prune.preset=quick", "-m")
WHY = "prune.target_macs=0.001 cannot be reached: with every group at its smallest,"


def test_every_run_of_a_sweep_fails(tmp_path: Path) -> None:
    """Each is tried and says why; there is no page of nothing, and each folder says whose it is."""
    ended = run_here("prune.target_macs=0.001,0.002", *QUICK, folder=tmp_path)
    assert ended.status == 2
    assert ended.stderr.count("error: prune.target_macs=0.00") == 2
    assert "error: 2 runs of this sweep failed:\n  0_target_macs=0.001: " in ended.stderr
    assert f"hydra.sweep.dir={tmp_path}/sweep" in ended.stderr.splitlines()[-1]
    assert not list((tmp_path / "sweep").glob("summary.*"))
    assert len(list((tmp_path / "sweep").glob("*/run.json"))) == 2


@pytest.mark.rehearsal
def test_the_runs_behind_one_that_failed(tmp_path: Path) -> None:
    """They are run and compared; started again, the command computes nothing twice and fails where it failed."""
    ended = run_here("prune.target_macs=0.7,0.001,0.5", *QUICK, folder=tmp_path)
    assert ended.status == 2
    assert ended.stderr.startswith(f"error: {WHY}")
    last = ended.stderr.strip().splitlines()[-3:]
    assert last[0] == "error: 1 run of this sweep failed:"
    assert last[1].startswith(f"  1_target_macs=0.001: {WHY}")
    assert last[2].startswith(
        "The same command takes what is finished as it is and goes on with the rest: python run.py"
    )
    assert f"hydra.sweep.dir={tmp_path}/sweep" in last[2]
    assert ended.stdout.rstrip().endswith("Summary of the finished runs: " + str(tmp_path / "sweep" / "summary.html"))
    rows = read_table(tmp_path / "sweep" / "summary.csv")
    assert [(row["run"], row["target_macs"]) for row in rows] == [
        ("0_target_macs=0.7", "0.7"),
        ("2_target_macs=0.5", "0.5"),
    ]
    facts = json.loads((tmp_path / "sweep" / "1_target_macs=0.001" / "run.json").read_text())
    assert (facts["model"], facts["data"]["name"], facts["config"]["seed"]) == ("cifar_resnet20", "digits", 0)
    again = run_here("prune.target_macs=0.7,0.001,0.5", *QUICK, folder=tmp_path)
    assert again.status == 2
    assert again.stdout.count("pruned: what an earlier start of this run left is used") == 2
    assert "training:" not in again.stdout
    assert again.stdout.count("groups with") == 1
    assert read_table(tmp_path / "sweep" / "summary.csv") == rows


def test_several_processes_in_a_sweep(tmp_path: Path) -> None:
    """They are refused in every run, before any work."""
    ended = run_here("trainer=ddp_cpu", "seed=1,2", "-m", folder=tmp_path)
    assert (ended.status, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: trainer: 2 processes do not work inside a multirun (-m)")
    assert "error: 2 runs of this sweep failed:\n  0_seed=1; 1_seed=2: trainer: 2 processes" in ended.stderr


def test_a_sweep_of_dry_runs(tmp_path: Path) -> None:
    """There is nothing to compare, and nothing has failed."""
    ended = run_here("prune.dry_run=true", "seed=0,1", "-m", folder=tmp_path)
    assert (ended.status, ended.stderr) == (0, "")
    assert len(list((tmp_path / "sweep").glob("*/groups.json"))) == 2


@pytest.mark.parametrize("error", [RuntimeError("out of\n memory"), SystemExit(1)])
def test_what_ends_a_sweep_is_raised_behind_its_pages(
    error: BaseException, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error that is not the user's ends it as before, with its status; the pages are there."""
    sweep = Sweep({str(swept(tmp_path, SCORES)): "Which?"})
    assert sweep.note(RuntimeError("out of\n memory"), "1_seed=1") is None
    assert sweep.note(ValueError("seed must be"), "2_seed=-1") == "seed must be"
    assert sweep.note(ValueError("seed must be"), "3_seed=-2") == "seed must be"
    with pytest.raises(type(error)) as raised, sweep.concluded():
        raise error
    assert raised.value is error
    assert (tmp_path / "summary.html").is_file()
    assert capsys.readouterr().err.splitlines() == [
        "error: 3 runs of this sweep failed:",
        "  1_seed=1: RuntimeError: out of memory",
        "  2_seed=-1; 3_seed=-2: seed must be",
    ]


def test_pages_that_cannot_be_written_hide_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What failed is told behind the refusal."""
    sweep = Sweep({str(tmp_path): ""})
    sweep.note(ValueError("no"), "1")
    with pytest.raises(SystemExit), sweep.concluded():
        say("first")
    first, refusal, *told = capsys.readouterr().err.splitlines()
    assert (first, told) == ("error: first", ["error: 1 run of this sweep failed:", "  1: no"])
    assert "is no run folder" in refusal


def test_facts_of_a_run_that_ended_early_stand_in_nobodys_way(tmp_path: Path) -> None:
    """Other settings may be tried in its folder; beside a plan they may not, and its facts stay."""
    RunFolder(tmp_path).begin({"config": {"seed": 0}})
    RunFolder(tmp_path).record({"dense/macs": 1})
    refuse_replacing(tmp_path, {"seed": 1})
    folder = RunFolder(tmp_path)
    folder.begin({"config": {"seed": 1}})
    folder.record({"dense/macs": 2})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"dense/macs": 2}
    assert json.loads((tmp_path / "run.json").read_text()) == {"config": {"seed": 1}}
    (tmp_path / "plan.json").write_text("{}")
    RunFolder(tmp_path).begin({"config": {"seed": 2}})
    assert json.loads((tmp_path / "run.json").read_text()) == {"config": {"seed": 1}}
    with pytest.raises(ValueError, match="seed was 1 and is 2"):
        refuse_replacing(tmp_path, {"seed": 2})


@pytest.mark.filterwarnings("default")  # of the old optuna
@pytest.mark.parametrize("rate", [1.0, 0.0])
def test_optuna_counts_the_runs_that_fail(rate: float, tmp_path: Path) -> None:
    """`max_failure_rate` decides whether those behind one that failed start; the last lines say what failed."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="pip install -e '.[optuna]'")
    search = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1", "seed=choice(-1,-2)",
              "hydra.sweeper.direction=[maximize,minimize]", f"hydra.sweeper.max_failure_rate={rate}",
              "optimise=[finetuned/val_acc1_percent,pruned/macs]", "hydra.sweeper.sampler.seed=0")  # fmt: skip
    ended = run_here("-m", *search, folder=tmp_path)
    told = ended.stderr[ended.stderr.index(f"error: {3 if rate else 1} run") :].splitlines()
    assert ended.status == 2
    assert "Traceback" not in ended.stderr
    assert all(": prune.seed must be a whole number from 0 to " in line for line in told[1 : 2 + bool(rate)])
    assert len(list((tmp_path / "sweep").glob("*_seed=-*"))) == (3 if rate else 1)
    said = (
        "The sweeper ended here (hydra.sweeper.max_failure_rate=0.0); with hydra.sweeper.max_failure_rate=1 it starts"
    )
    assert told[-1].startswith(said) != bool(rate)


@pytest.mark.filterwarnings("default")  # of the old optuna
def test_optuna_has_nothing_to_choose_from_where_all_runs_failed(tmp_path: Path) -> None:
    """With one number it looks for the best run: no stack trace of its own, but what failed and why."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="pip install -e '.[optuna]'")
    search = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1", "seed=choice(-1,-2)",
              "hydra.sweeper.direction=maximize", "hydra.sweeper.max_failure_rate=1",
              "hydra.sweeper.sampler.seed=0")  # fmt: skip
    ended = run_here("-m", *search, folder=tmp_path)
    assert ended.status == 2
    assert "Traceback" not in ended.stderr
    assert "no run has finished, so the sweeper has nothing to choose from: No trials are completed" in ended.stderr
    told = ended.stderr[ended.stderr.index("error: 2 runs of this sweep failed:") :].splitlines()
    assert all(": prune.seed must be a whole number from 0 to " in line for line in told[1:])


def test_errors_of_runs_are_known() -> None:
    """What a sweeper raises anew is shown as before."""
    sweep = Sweep()
    sweep.note(ValueError("seed must be"), "2_seed=-1")
    assert sweep.knows(ValueError("seed must be"))
    assert not sweep.knows(ValueError("No trials are completed yet."))
