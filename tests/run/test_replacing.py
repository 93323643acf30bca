"""Do results in a folder stay where a second run has other settings, data or processes?"""

import json
from pathlib import Path
from typing import Any

import pytest

from snp.run.facts import run_facts
from snp.run.refusals import refuse_replacing

CONFIG: dict[str, Any] = {
    "model": {"family": "timm", "hub_token": "abc"},
    "data": {"root": "photos", "num_workers": 4},
    "prune": {"largest_token": 4.0},
}


def changed(name: str, value: object) -> dict[str, Any]:
    """The same settings with another value of one."""
    section, _, option = name.partition(".")
    return {**CONFIG, section: {**CONFIG.get(section, {}), option: value}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results of these settings."""
    (tmp_path / "plan.json").write_text("{}")
    (tmp_path / "run.json").write_text(json.dumps(run_facts(CONFIG, ["run.py"])))
    return tmp_path


def test_the_same_settings_go_on(folder: Path) -> None:
    """Also with another number of loading processes, and with a secret, which no file holds to be compared."""
    refuse_replacing(folder, CONFIG)
    refuse_replacing(folder, changed("data.num_workers", 0))
    assert "abc" not in (folder / "run.json").read_text()
    refuse_replacing(folder, changed("model.hub_token", "xyz"))


def test_a_number_with_the_name_of_a_secret(folder: Path) -> None:
    """It is written down as it is, and compared."""
    assert json.loads((folder / "run.json").read_text())["config"]["prune"] == {"largest_token": 4.0}
    with pytest.raises(ValueError, match=r"prune.largest_token was 4.0 and is 100.*overwrite=true"):
        refuse_replacing(folder, changed("prune.largest_token", 100))
