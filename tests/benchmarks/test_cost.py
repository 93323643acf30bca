"""Do the cost benchmarks end with the ratio that they promise, and add their stages up?"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

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


@pytest.mark.slow
def test_growth(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Points of an axis in processes of their own, exponents between them, and a figure that repeats."""
    import growth

    monkeypatch.setattr(growth, "BASE", {"samples": 8, "width": 64, "depth": 2})
    monkeypatch.setitem(growth.AXES, "depth", (2, 3))
    figure = tmp_path / "growth.svg"
    monkeypatch.setattr(sys, "argv", ["growth.py", "--axes", "depth", "--preset", "paper", "--out", str(figure)])
    growth.main()
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| depth")]
    assert [row[1] for row in cells] == ["2", "3"]
    for _, _, seconds, passes, peak, beyond in cells:
        assert float(seconds) > 0
        assert float(passes) > 1
        assert float(peak) > float(beyond) > 0
    assert "<svg" in figure.read_text()


def test_exponents_of_growth() -> None:
    """From point to point: the power of the axis by which a measure grows."""
    import growth

    assert growth.exponents((2, 4, 16), [1.0, 8.0, 2.0]) == pytest.approx([3.0, -1.0])


def test_passes_of_a_schedule() -> None:
    """Forward passes of single images: three for a forward and a backward pass."""
    import cost_against_field

    assert cost_against_field.scheduled_passes(90_000, 256) == 69_120_000
    batches = [(torch.arange(300.0)[:, None], torch.arange(300))] * 2
    first = cost_against_field.first_images(batches, 400)
    assert [len(labels) for _, labels in first] == [128, 128, 128, 16]
    assert first[-1][1].tolist() == list(range(84, 100))
