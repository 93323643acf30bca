"""What do all tests share?  An offline environment, one thread, seeds, the folder of real data, and a finished run."""

import gc
import json
import os

os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", MPLBACKEND="Agg")

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from tests.command_line import Ended, run

# Files of a minute or more, the longest first: they begin first, so that no worker is left with one at the end.
LONGEST = (
    "run/test_resume.py", "test_second_device.py", "test_library.py", "run/test_run.py", "graph/test_graph_models.py",
    "run/test_configs.py", "test_language.py", "fit/test_stream_bases.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order of files; tests of a file keep theirs."""

    def place(item: pytest.Item) -> int:
        names = [number for number, name in enumerate(LONGEST) if item.path.as_posix().endswith(f"tests/{name}")]
        return names[0] if names else len(LONGEST)

    items.sort(key=place)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What imports and thousands of tests left is there to stay: nobody need look through it for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # The operations here are small: on a busy machine two threads wait for each other a hundred times longer than
    # one computes.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    """The only source of randomness of a test that draws data."""
    return torch.Generator().manual_seed(1)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real data named by SNP_DATA_DIR; a test that needs it is skipped where it is absent."""
    named = os.environ.get("SNP_DATA_DIR")
    if not named:
        pytest.skip("SNP_DATA_DIR is not set: it names the folder of real data")
    if not Path(named).is_dir():
        pytest.skip(f"SNP_DATA_DIR={named} is not a folder")
    return Path(named)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """One whole tiny run by the command line: its folder, which nobody changes, and what it printed."""
    # Workers have folders side by side: one of them runs, and all look at what it left.
    home = tmp_path_factory.getbasetemp()
    home = home.parent if "PYTEST_XDIST_WORKER" in os.environ else home
    left = home / "finished.json"
    with FileLock(home / "finished.lock"):
        if not left.exists():
            ended = run("hydra.run.dir=finished", cwd=home)
            assert ended.status == 0, ended.stderr
            left.write_text(json.dumps(asdict(ended)))
    return home / "finished", Ended(**json.loads(left.read_text()))
