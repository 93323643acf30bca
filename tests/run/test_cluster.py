"""Do the engines that start runs on clusters start ours?  What one machine can show of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from tests.command_line import ROOT, TINY, environment

QUICK = ("logger=csv", "finetune.epochs=0", "prune.ordering=saw", "prune.cut=uniform", "prune.calibration=joint")


def started(command: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=home, env=environment(home), capture_output=True, text=True, timeout=280)


def test_slurm_launcher_composes() -> None:
    """The documented overrides exist in the launcher's configuration."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install -e '.[cluster]'")
    asked = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=1"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(
            "config", [*asked, "hydra.launcher.timeout_min=240", "experiment=ratios"], return_hydra_config=True
        )
    assert config.hydra.launcher._target_.endswith("SlurmLauncher")
    assert config.hydra.launcher.timeout_min == 240


def test_nodes_and_devices_are_options_of_the_trainer() -> None:
    """What the page tells to override is there."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", ["trainer=ddp", "trainer.num_nodes=2", "trainer.devices=8"])
    assert (config.trainer.num_nodes, config.trainer.devices, config.trainer.strategy) == (2, 8, "ddp")


@pytest.mark.slow
def test_submitit_runs_a_sweep_of_two(tmp_path: Path) -> None:
    """Each run in a process of its own, by the local executor of the engine that submits to Slurm."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install -e '.[cluster]'")
    words = [*TINY, *QUICK, "hydra/launcher=submitit_local", f"hydra.sweep.dir={tmp_path}/sweep", "seed=0,1"]
    ended = started([sys.executable, str(ROOT / "run.py"), "-m", *words], tmp_path)
    found = [json.loads(path.read_text()) for path in sorted((tmp_path / "sweep").glob("*/metrics.json"))]
    assert len(found) == 2, ended.stdout + ended.stderr
    assert all("pruned/acc1_percent" in metrics for metrics in found)


@pytest.mark.slow
def test_submitit_runs_what_stands_behind_a_run_that_failed(tmp_path: Path) -> None:
    """The other process's refusal is told by this one, behind the pages of what finished."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install -e '.[cluster]'")
    sweep = [f"hydra.sweep.dir={tmp_path}/sweep", "hydra/launcher=submitit_local", "prune.target_macs=0.001,0.7"]
    ended = started([sys.executable, str(ROOT / "run.py"), "-m", *TINY, *QUICK, *sweep], tmp_path)
    assert ended.returncode == 2, ended.stderr
    told = ended.stderr.splitlines()[-3:]
    assert told[0] == "error: 1 run of this sweep failed:"
    assert told[1].startswith("  0_target_macs=0.001: prune.target_macs=0.001 cannot be reached")
    assert told[2].startswith("The same command takes what is finished as it is and goes on with the rest: python ")
    assert f"Summary of the finished runs: {tmp_path}/sweep/summary.html" in ended.stdout
    assert not list((tmp_path / "sweep").glob("*/failed.json"))


KILLED = """
import os, signal
from snp.data.digits import Digits


class Killed(Digits):
    def samples(self, part):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_process_of_submitit_that_is_killed_is_a_run_that_failed(tmp_path: Path) -> None:
    """Those behind it are waited for and get their pages; no stack trace."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install -e '.[cluster]'")
    site, told = tmp_path / "site", tmp_path / "site" / "killed-1.dist-info"
    told.mkdir(parents=True)
    (site / "killed.py").write_text(KILLED)
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: killed\nVersion: 1\n")
    (told / "entry_points.txt").write_text("[snp.data]\nkilled = killed:Killed\n")
    data = ["data=other", "data.name=killed,digits", "data.arguments={image_size: 8}"]
    words = [*TINY[:3], *QUICK, "trainer=cpu", *data]
    sweep = [f"hydra.sweep.dir={tmp_path}/sweep", "hydra/launcher=submitit_local"]
    command = [sys.executable, str(ROOT / "run.py"), "-m", *words, *sweep]
    paths = os.pathsep.join([str(site), str(ROOT)])
    variables = environment(tmp_path) | {"PYTHONPATH": paths}
    ended = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    failed, why, again = ended.stderr.splitlines()[-3:]
    assert failed == "error: 1 run of this sweep failed:"
    assert why.startswith("  0_")
    assert ": its process ended before the run did, killed or out of memory (state " in why
    assert again.startswith("The same command takes what is finished as it is and goes on with the rest: python ")
    assert f"Summary of the finished runs: {tmp_path}/sweep/summary.html" in ended.stdout


@pytest.mark.slow
def test_torchrun_starts_two_processes(tmp_path: Path) -> None:
    """Training, calibration and fine-tuning of one run by the processes that torchrun has started."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(ROOT / "run.py")]
    words = [*TINY, *QUICK, "finetune.epochs=1", "trainer=ddp_cpu", f"hydra.run.dir={tmp_path}/run"]
    ended = started([*launch, *words], tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["calibration/samples"] == 65
    assert "finetuned/acc1_percent" in metrics
