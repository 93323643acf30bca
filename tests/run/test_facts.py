"""Does a run say how it can be repeated, and nothing that is secret?"""

import json
import subprocess
from pathlib import Path

from snp.data.digits import Digits
from snp.run.facts import commit, data_facts, machine, peak_memory_bytes, run_facts
from snp.run.hidden import command, without_secrets
from tests.command_line import Ended


def test_secrets_are_hidden() -> None:
    """Keys, tokens and passwords at any depth, and logins in addresses; words that only look like them stay."""
    config = {
        "api_key": "abc", "hub": {"HF_TOKEN": "abc", "url": "https://me:abc@host/x"},
        "list": [{"password": "abc"}, {"passwd": 57005}],
        "data": {"tokenizer": "folder", "keyword": "x", "token_limit": "all"}, "key": None, "token": False,
        "prune": {"largest_token": 4.0}, "sizes": {"key": [1, 2]},
    }  # fmt: skip
    shown = without_secrets(config)
    assert "abc" not in json.dumps(shown)
    assert "57005" not in json.dumps(shown)
    assert (shown["data"], shown["prune"], shown["sizes"]) == (config["data"], config["prune"], config["sizes"])
    assert shown["hub"]["url"] == "https://host/x"
    assert (shown["key"], shown["token"]) == (None, False)
    words = ["run.py", "logger.api_key=abc", "data.root=https://me:abc@host/x", "model=opt", "note='a b'"]
    assert (
        command(words)
        == "python run.py 'logger.api_key=(hidden)' data.root=https://host/x model=opt 'note='\"'\"'a b'\"'\"''"
    )
    plain = ["prune.largest_token=4.0", "logger.api_key=null", "data.token_limit=all", "a.password=null"]
    assert command(["run.py", *plain]) == f"python run.py {' '.join(plain)}"


def test_command_of_a_console_script() -> None:
    """What was typed comes back without the folder of the script."""
    assert command(["/usr/local/bin/snp", "run", "seed=1"]) == "snp run seed=1"


def test_commit_of_a_folder(tmp_path: Path) -> None:
    """Outside of git there is none; in a checkout it is the commit, marked where a file differs from it."""
    assert commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("one")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    clean = commit(tmp_path)
    assert clean is not None
    assert len(clean) == 12
    (tmp_path / "file").write_text("two")
    assert commit(tmp_path) == f"{clean}+"


def test_machine_and_memory() -> None:
    """Numbers that any machine has; the name of the host is none of them."""
    found = machine()
    assert found["cores"] >= 1
    assert found["processor"]
    assert peak_memory_bytes()["memory/peak_bytes"] > 2**24


def test_samples_of_every_part() -> None:
    """Each part of a data set is counted as the network sees it."""
    digits = Digits(batch_size=8, image_size=8)
    digits.configure(image_size=8, mean=[0.5] * 3, std=[0.5] * 3, interpolation="bilinear", crop_fraction=1.0)
    found = data_facts(digits)
    assert found["name"] == "digits"
    assert sum(value for value in found.values() if isinstance(value, int)) == 1797


def test_a_run_notes_its_facts(finished_run: tuple[Path, Ended]) -> None:
    """run.json, layers.csv and damage.csv of a finished run agree with its plan and metrics."""
    folder = finished_run[0]
    facts, metrics = (json.loads((folder / name).read_text()) for name in ("run.json", "metrics.json"))
    assert facts["command"].startswith("python run.py dense.epochs=1")
    assert facts["config"]["calibration"]["samples"] == 65
    assert facts["data"]["test"] == metrics["test/samples"]
    assert facts == run_facts({}) | facts
    layers = [line.split(",") for line in (folder / "layers.csv").read_text().splitlines()[1:]]
    for column, stage in ((3, "dense"), (4, "pruned")):
        assert sum(int(row[column]) for row in layers) == metrics[f"{stage}/macs"]
    plan = json.loads((folder / "plan.json").read_text())
    damage = [line.split(",") for line in (folder / "damage.csv").read_text().splitlines()[1:]]
    assert {row[0] for row in damage} == {group["name"] for group in plan["groups"]}
    assert len(damage) == sum(group["num_units"] + 1 for group in plan["groups"])
    assert metrics["prune/reached"] <= metrics["prune/target_value"] == 0.5
    assert metrics["memory/peak_bytes"] > 2**24
