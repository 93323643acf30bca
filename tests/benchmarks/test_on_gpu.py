"""Does the command for machines with a GPU find failures, and do its jobs run where there is none?"""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.command_line import BENCHMARKS
from tests.second_device import SECOND, second_device


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script, which finds its neighbours as it does when it is started."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__("on_gpu")
    for name in ("on_gpu", "harness"):
        sys.modules.pop(name, None)


def test_every_job_is_there(on_gpu: ModuleType, tmp_path: Path) -> None:
    """Whole runs in every precision and number of processes that ship, and full-size networks in both ways."""
    for words in ([], ["--device", "cpu", "--small"]):
        jobs = on_gpu.jobs_of(on_gpu.options_of(words), tmp_path)
        said = " ".join(word for job in jobs for word in (job.name, *job.words))
        for wanted in ("bf16-mixed", "trainer.devices=1", "target_latency", "streams", "snp.export", "opt", "resnet56"):
            assert wanted in said
        for network in ("resnet50", "deit_small"):
            assert {f"{network}, plain", f"{network}, default"} <= {job.name for job in jobs}
        assert {job.call for job in jobs if job.call} == set(on_gpu.calls(on_gpu.options_of(words)))
    first = on_gpu.jobs_of(on_gpu.options_of([]), tmp_path)[0]
    assert [word for word in first.words[1:] if not word.startswith("hydra.run.dir=")] == []  # all defaults


def test_failures_are_counted(on_gpu: ModuleType) -> None:
    """A job that fails or has no time left says why in the table; one that ends well is ok."""
    options = on_gpu.options_of(["--device", "cpu", "--small"])
    cases = {
        "pass": "ok",
        "raise SystemExit('the reason')": "the reason",
        "import time; time.sleep(30)": "no time left",
    }
    for code, wanted in cases.items():
        job = on_gpu.Job("one", ("-c", code))
        assert wanted in on_gpu.row(job, *on_gpu.started(job, options, 3))[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_rehearsal_is_named(on_gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that says what to do."""
    monkeypatch.setattr(sys, "argv", ["on_gpu.py"])
    with pytest.raises(SystemExit, match=r"there is no GPU .* --device cpu --small"):
        on_gpu.main()


@pytest.mark.parametrize(
    "name",
    ["plain deit_small", *(pytest.param(name, marks=pytest.mark.rehearsal) for name in ("opt", "plain resnet50"))],
)
def test_jobs_on_another_device(name: str, on_gpu: ModuleType) -> None:
    """The networks lie on the device, images come from main memory, and the facts of the table are there."""
    with second_device():
        found = on_gpu.calls(on_gpu.options_of(["--small"]))[name](SECOND)
    assert 0.5 < found["MACs left"] < 1
    assert found["self-check"] < 1e-3
    assert name == "opt" or found["calibrate / forward"] > 0
