"""Does every stage get its own time, and does a prune say where its time went?"""

import time

import pytest
import torch
from torch import nn

import snp
from snp.plan.progress import Progress


def test_stages_inside_others_are_not_counted_twice() -> None:
    """The outer stage has its own time only, in the order of the beginnings; repeated stages add up."""
    progress, began = Progress(), time.perf_counter()
    with progress.stage("outer"):
        time.sleep(0.02)
        for _ in range(2):
            with progress.stage("inner", 1):
                time.sleep(0.03)
                progress.step()
    assert list(progress.times) == ["outer", "inner"]
    outer, inner = progress.times["outer"].seconds, progress.times["inner"].seconds
    assert inner >= 0.06
    assert outer >= 0.02
    assert outer + inner <= time.perf_counter() - began


def test_a_stage_that_fails_is_closed() -> None:
    """Its time counts, and the next stage is no part of it."""
    progress = Progress()
    with pytest.raises(ValueError, match="on purpose"), progress.stage("one"):
        raise ValueError("on purpose")
    with progress.stage("two"):
        pass
    assert list(progress.times) == ["one", "two"]


class _Terminal:
    """Standard error of a terminal."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("shows", [True, False])
def test_a_prune_shows_its_stages_and_keeps_their_shares(shows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage draws a bar on a terminal unless silenced, and its share of the time stands in the result."""
    terminal = _Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))
    result = snp.prune(model, torch.randn(64, 4).split(16), target_macs=0.5, progress=shows)
    assert list(result.shares) == [
        "analyse", "calibrate", "measure sensitivity", "choose units", "try cuts", "fit weights", "cut and check",
    ]  # fmt: skip
    assert sum(result.shares.values()) == pytest.approx(1.0)
    assert all(name in str(result) for name in result.shares)
    assert all((name in terminal.text) == shows for name in result.shares)
    assert ("0/4" in terminal.text) == shows
