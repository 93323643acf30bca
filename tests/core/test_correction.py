"""Does a corrected curve go through what was measured and stay a curve of damages?"""

import pytest
import torch

from snp.core.correction import corrected

CURVE = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.0], dtype=torch.float64)


def test_without_measurements_nothing_changes() -> None:
    """No trial, no correction."""
    assert corrected(CURVE, {}) is CURVE


def test_one_measurement_scales_the_curve() -> None:
    """The factor found at one place holds everywhere."""
    torch.testing.assert_close(corrected(CURVE, {3: 10.0}), 10 * CURVE, rtol=1e-5, atol=0)


def test_goes_through_all_measurements() -> None:
    """Between two of them the factor is their geometric interpolation; outside it stays."""
    found = corrected(CURVE, {1: 8.0, 3: 8.0, 5: 2.0})
    torch.testing.assert_close(found[[1, 3, 5]], torch.tensor([8.0, 8.0, 2.0]).double(), rtol=1e-4, atol=0)
    assert float(found[0]) == pytest.approx(16.0, rel=1e-4)
    assert float(found[2]) == pytest.approx(8.0, rel=1e-4)  # 2 times sqrt(2 * 8)


@pytest.mark.parametrize("measured", [{2: 0.1, 4: 5.0}, {1: -1e-9, 5: 3.0}, {3: 0.0}])
def test_fewer_units_never_do_less_damage(measured: dict[int, float]) -> None:
    """Noise in measurements, be it a gain, makes no bargain; keeping all still does no damage."""
    found = corrected(CURVE, measured)
    assert bool((found[:-1] >= found[1:]).all())
    assert float(found[-1]) == 0.0
    assert bool(torch.isfinite(found).all())


def test_damage_that_was_not_foreseen_counts() -> None:
    """A curve that is all but zero where the trial finds damage is lifted to it."""
    found = corrected(torch.tensor([1.0, 0.0, 0.0, 0.0]).double(), {1: 0.3})
    assert float(found[0]) > 1e4
