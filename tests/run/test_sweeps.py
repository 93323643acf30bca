"""Do the sweeps run, by W&B's own sweep and agent commands and without them?

The agent talks to a stand-in for W&B's server on this machine (`agent_protocol`): search on the server, upload and the
web pages are not tested here.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.agent_protocol import serving
from tests.command_line import ROOT, TINY, environment, run, start, wait

pytestmark = pytest.mark.slow

# Two points of each grid: the first measures, the second takes what the first left.
TWO_POINTS: dict[str, dict[str, Any]] = {
    "calibration_size": {"calibration.samples": {"values": [32, 64]}},
    "cuts": {"prune.cut": {"values": ["variance", "uniform"]}, "prune.target_macs": {"value": 0.5}},
    "finetuning_length": {"finetune.epochs": {"values": [0, 1]}, "prune.target_macs": {"value": 0.5}},
    "reconstruction": {
        "prune.reconstruct": {"values": [True, False]},
        "prune.target_macs": {"value": 0.5},
        "finetune.epochs": {"value": 0},
    },
    "seeds": {"seed": {"values": [0, 1]}},
    "structures": {"prune.structures": {"values": [["ffn"], ["ffn", "vo"]]}, "prune.target_params": {"value": 0.8}},
    "ratios": {"prune.target_macs": {"values": [0.8, 0.5]}, "prune.ordering": {"value": "zca"}},
    "orderings": {"prune.ordering": {"values": ["zca", "random"]}, "prune.target_macs": {"value": 0.5}},
}


def tiny_sweep(name: str, folder: Path) -> Path:
    """A sweep file cut down to two points and tiny settings; all else is as it is in sweeps/."""
    file = yaml.safe_load((ROOT / "sweeps" / f"{name}.yaml").read_text())
    tiny = {"data": "digits"} | dict(option.split("=", 1) for option in TINY)  # fewer than the sweep's own
    file["program"] = str(ROOT / file["program"])
    length = {"value": int(file["metric"]["name"].startswith("finetuned"))}
    assert set(TWO_POINTS[name]) <= set(file["parameters"])
    if name == "structures":  # of a network of 32 x 32 pixels
        del tiny["data.image_size"]
    file["parameters"] |= {option: {"value": value} for option, value in tiny.items()}
    file["parameters"] |= {"seed": {"value": 0}, "finetune.epochs": length} | TWO_POINTS[name]
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(file))
    return path


def wandb(*arguments: str, cwd: Path, variables: dict[str, str]) -> str:
    """Run a command of the real W&B client."""
    # The agent starts `python`, and means that of the active environment.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [str(Path(sys.executable).with_name("wandb")), *arguments]
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**environment(cwd), "PATH": path, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def summary_of(run_dir: Path) -> dict[str, Any]:
    """What W&B's own reader finds in the offline run of a run folder."""
    (offline,) = run_dir.glob("wandb/offline-run-*")
    found: dict[str, Any] = json.loads(
        wandb("leet", "inspect", "--summary", "--json", str(offline), cwd=run_dir, variables={})
    )
    return found


def test_every_sweep_has_two_points() -> None:
    """None is left out of the test with an agent."""
    assert set(TWO_POINTS) == {path.stem for path in (ROOT / "sweeps").glob("*.yaml")}


def test_optuna_searches_on_two_objectives(tmp_path: Path) -> None:
    """Its sweeper gets both numbers of every run, and its front holds no run that another one beats in both."""
    pytest.importorskip(
        "hydra_plugins.hydra_optuna_sweeper", reason="the extra package of snp[optuna] is not installed"
    )
    search = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1",
              "hydra.sweeper.direction=[maximize,minimize]", "hydra.sweeper.sampler.seed=0",
              "optimise=[pruned/val_acc1_percent,pruned/macs]", "prune.target_macs=interval(0.3,0.9)",
              "prune.ordering=choice(zca,random)")  # fmt: skip
    quick = ("finetune.epochs=0", "prune.preset=quick", "logger=none", "hydra.sweep.dir=sweep", "cache_dir=cache")
    ended = run("-m", *search, *quick, cwd=tmp_path)
    assert ended.status == 0, ended.stderr
    runs = [json.loads(path.read_text()) for path in (tmp_path / "sweep").glob("[0-9]*/metrics.json")]
    scores = [(entry["pruned/val_acc1_percent"], entry["pruned/macs"]) for entry in runs]
    assert len(scores) == 3
    best = {(a, m) for a, m in scores if not any((x >= a and y <= m and (x, y) != (a, m)) for x, y in scores)}
    found = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())["solutions"]
    assert {tuple(solution["values"]) for solution in found} == best
    assert (tmp_path / "sweep" / "summary.html").is_file()


@pytest.mark.parametrize("name", sorted(TWO_POINTS))
def test_an_agent_runs_a_sweep(name: str, tmp_path: Path) -> None:
    """`wandb sweep` accepts the file, `wandb agent` runs its points, and each run has the number that is watched."""
    with serving() as server:
        variables = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "local-" + 40 * "a", "WANDB_MODE": "offline"}
        wandb("sweep", str(tiny_sweep(name, tmp_path)), cwd=tmp_path, variables=variables)
        said = wandb("agent", "tester/snp/sweep0", cwd=tmp_path, variables=variables)
        assert server.started == ["run0", "run1"], said
    folders = [next((tmp_path / "outputs").glob(f"*/*-{run_id}")) for run_id in server.started]
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    # Other samples, another dense network and other layers are measured anew, and so are kernel patches: the order that
    # goes with cut=uniform looks at them, the one of cut=variance does not.
    is_alone = name in ("calibration_size", "cuts", "seeds", "structures")
    assert [entry["calibration/reused"] for entry in metrics] == [False, not is_alone]
    assert (metrics[0]["dense/acc1_percent"] == metrics[1]["dense/acc1_percent"]) or name == "seeds"
    kinds = ("plan.json",) if name != "finetuning_length" else ("metrics.json",)
    assert all((folders[0] / kind).read_text() != (folders[1] / kind).read_text() for kind in kinds)
    for folder, entry in zip(folders, metrics, strict=True):
        found = summary_of(folder)
        watched = server.config["metric"]["name"]
        assert found["summary"][watched] == pytest.approx(entry[watched])
        assert found["exit_code"] == 0


@pytest.mark.timeout(1100)
def test_seeds_train_and_calibrate_once(tmp_path: Path) -> None:
    """Three seeds over seven ratios: three dense networks, three calibrations, and one entry of each for every seed."""
    quick = (
        "data=digits",
        "dense.epochs=1",
        "finetune.epochs=0",
        "prune.preset=quick",
        "prune.ordering=zca",
        "logger=none",
    )
    ended = wait(start("experiment=ratios", *quick, "hydra.sweep.dir=sweep", cwd=tmp_path), timeout=1000)
    assert ended.status == 0, ended.stderr
    assert ended.stdout.count("dense training: 1 epoch\n") == 3
    runs = [json.loads(path.read_text()) for path in (tmp_path / "sweep").glob("[0-9]*/metrics.json")]
    assert len(runs) == 21
    assert sum(not entry["calibration/reused"] for entry in runs) == 3
    for kind, ending in (("dense", "safetensors"), ("moments", "safetensors"), ("scores", "json")):
        kept = {path.name for path in (tmp_path / "sweep" / "shared").glob(f"{kind}-*.{ending}")}
        assert len(kept) == 3
        assert kind == "scores" or {entry[f"cache/{kind}"] for entry in runs} == kept
    assert len({entry["dense/acc1_percent"] for entry in runs}) <= 3


@pytest.mark.parametrize("name", ["orderings", "ratios"])
def test_an_experiment_runs_without_wandb(name: str, tmp_path: Path) -> None:
    """The same question without an account: one command, one calibration, a folder per point."""
    parameters = {
        key: ",".join(map(str, entry["values"] if "values" in entry else [entry["value"]]))
        for key, entry in TWO_POINTS[name].items()
    }
    shown = ", ".join(f'{key}: "{values.lower()}"' for key, values in parameters.items())
    points = f'hydra.sweeper.params={{{shown}, seed: "0"}}'
    options = (f"experiment={name}", points, "data=digits", "hydra.sweep.dir=sweep", "finetune.epochs=0", "logger=csv")
    ended = run(*options, cwd=tmp_path)
    assert ended.status == 0, ended.stderr
    metrics = [json.loads(next((tmp_path / "sweep").glob(f"{job}_*/metrics.json")).read_text()) for job in range(2)]
    assert [entry["calibration/reused"] for entry in metrics] == [False, True]
    assert len(list((tmp_path / "sweep" / "shared").glob("moments-*"))) == 1
    assert not list((tmp_path / "sweep").glob("[0-9]*/moments-*"))
    assert not list((tmp_path / "sweep").glob("2_*"))
    with (tmp_path / "sweep" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["pruned/acc1_percent"]) for row in rows] == [entry["pruned/acc1_percent"] for entry in metrics]
    for name in ("answer.png", "answer.svg", "answer.csv", "summary.html"):
        assert (tmp_path / "sweep" / name).stat().st_size > 100
