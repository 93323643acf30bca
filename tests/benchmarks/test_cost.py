"""Do the cost benchmarks end with the ratio that they promise, and add their stages up?"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _as_started_from_the_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in set(sys.modules) - before:
        if BENCHMARKS in Path(getattr(sys.modules[name], "__file__", None) or "").parents:
            del sys.modules[name]


def test_whole_job(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Stages take no more than the whole, and the last word is the whole over a pass."""
    import job_cost

    options = ["--model", "resnet10t", "--samples", "8", "--size", "32", "--batch", "4", "--preset", "quick"]
    monkeypatch.setattr(sys, "argv", ["benchmarks/job_cost.py", *options])
    job_cost.main()
    lines = capsys.readouterr().out.strip().splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.endswith("% |")]
    seconds = {name: float(took) for name, took, *_ in cells}
    whole = seconds.pop("all")
    assert "calibrate" in seconds
    assert "try cuts" not in seconds
    assert sum(seconds.values()) == pytest.approx(whole, rel=0.1, abs=0.2)
    assert float(lines[-1].split()[-1]) > 1


def test_calibration(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The last word is the median ratio."""
    import calibration_cost

    options = ["--model", "resnet10t", "--samples", "4", "--size", "32", "--batch", "2", "--rounds", "3"]
    monkeypatch.setattr(sys, "argv", ["benchmarks/calibration_cost.py", *options])
    calibration_cost.main()
    assert float(capsys.readouterr().out.split()[-1]) > 0.5
