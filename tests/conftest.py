"""What do all tests share?  An offline environment, two threads, seeds, and the folder of real data where there is one."""

import os

os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", MPLBACKEND="Agg")

from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _two_threads() -> None:
    torch.set_num_threads(2)


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
