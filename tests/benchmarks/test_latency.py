"""Does the benchmark of speed time what it is asked to, in every form and with multiples that are asked for?"""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.command_line import BENCHMARKS


@pytest.fixture
def latency(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """The script, which finds its neighbours as it does when it is started, with a small network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = __import__("latency")
    monkeypatch.setattr(module, "NETWORKS", {"resnet10t": {"zero_init_last": False}})
    monkeypatch.setattr(module, "STRUCTURES", {"resnet10t": ("ffn",)})
    yield module
    for name in ("latency", "harness"):
        sys.modules.pop(name, None)


@pytest.mark.rehearsal
def test_every_form_has_a_row_per_rounding(latency: ModuleType, tmp_path: Path) -> None:
    """As it is and folded, with a number and with what is found; in half precision that is asked for this."""
    words = ["--models", "resnet10t", "--batch-size", "1", "--rounds", "2", "--precision", "bfloat16"]
    rows = latency.rows_of("resnet10t", latency.options_of([*words, "--round-to", "8", "auto"]))
    forms = [row[0].partition("round_to=") for row in rows]
    assert [before for before, *_ in forms] == ["resnet10t, as it is, "] * 2 + ["resnet10t, folded, "] * 2
    assert [said.partition(":")[0] for *_, said in forms] == ["8", "auto"] * 2
    assert all(0.4 < float(row[1]) <= 0.5 and row[-1] == "0.00" for row in rows)
    assert "bfloat16" in (tmp_path / "snp" / "multiples.json").read_text()


@pytest.mark.parametrize("words", [["--round-to", "wide"], ["--graphs"]])
def test_what_cannot_be_measured_is_refused(latency: ModuleType, words: list[str]) -> None:
    """Words that are no multiple, and graphs where there is no GPU."""
    with pytest.raises(SystemExit):
        latency.options_of(words)
