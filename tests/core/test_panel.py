"""Do columns come in as they are given, and is a step done as often as it is asked for?"""

from __future__ import annotations

import pytest
import torch

from snp.core.panel import Panel
from snp.core.repeated import Repeated

WIDTH, ROWS, MOST = 3, 7, 12


def test_places_that_are_fixed_hold_the_columns_that_have_come_and_zeros() -> None:
    """After any number of them, after a new beginning, and with fewer rows."""
    like = torch.zeros(ROWS, 1, dtype=torch.float64)
    growing, fixed = (Panel(like, MOST, WIDTH, fixed=fixed) for fixed in (False, True))
    generator = torch.Generator().manual_seed(0)
    for times, rows in ((4, ROWS), (2, ROWS), (3, 5)):
        if rows < ROWS:
            growing.compact(rows), fixed.compact(rows)
        assert growing.is_empty
        assert not fixed.is_empty
        given = [torch.randn(WIDTH, rows, generator=generator, dtype=torch.float64) for _ in range(times)]
        for part in given:
            growing.add(part), fixed.add(part)
        whole = torch.cat(given).T
        assert torch.equal(growing.columns, whole)
        assert torch.equal(fixed.columns[:, : times * WIDTH], whole)
        assert fixed.columns.shape == (rows, MOST)
        assert not fixed.columns[:, times * WIDTH :].any()
        growing.clear(), fixed.clear()


@pytest.mark.parametrize("times", [0, 1, 3, 4, 50])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_step_is_done_so_many_times(device: str, times: int) -> None:
    """Of operators on the same tensors, whose result depends on how often and in which order they are done."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    state, number = torch.ones(4, device=device), torch.zeros(1, dtype=torch.long, device=device)
    found = torch.zeros(60, device=device)

    def step() -> None:
        state.mul_(1.5).sub_(0.25)
        found.index_copy_(0, number, state[:1])
        number.add_(1)

    Repeated(step, state.device).run(times)
    Repeated(step, state.device).run(2)
    wanted, value = [], 1.0
    for _ in range(times + 2):
        value = 1.5 * value - 0.25
        wanted.append(value)
    assert int(number) == times + 2
    torch.testing.assert_close(found[: times + 2].cpu(), torch.tensor(wanted))


def test_a_step_that_cannot_be_recorded_is_called() -> None:
    """And random numbers can be drawn afterwards."""
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    found: list[float] = []
    state = torch.ones(1, device="cuda")

    def step() -> None:
        state.mul_(2)
        found.append(float(state))

    Repeated(step, state.device).run(6)
    assert found == [2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    assert torch.rand(1, device="cuda").isfinite()
