"""Do a few huge tokens stay within bounds, and all others as they are?"""

import torch

from snp.core.outliers import limiting_scale


def tokens() -> torch.Tensor:
    """Three samples of 9 tokens, the first of each far larger than the others."""
    values = torch.randn(3, 9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values[:, 0] *= 1000
    return values


def test_no_token_has_more_than_its_share_and_usual_ones_are_left_alone() -> None:
    """Energy is at most so many medians afterwards; what had less keeps its factor of exactly one."""
    values = tokens()
    scale = limiting_scale(values, 4.0)
    energy, usual = values.square().sum(-1), values.square().sum(-1).median(dim=1).values[:, None]
    torch.testing.assert_close((values * scale[..., None]).square().sum(-1), energy.minimum(4 * usual))
    assert torch.equal(scale == 1, energy <= 4 * usual)
    assert bool((scale[:, 0] < 0.1).all())


def test_unit_batches_and_padding_change_nothing() -> None:
    """Samples know nothing of each other, of the unit of activations, or of padded tokens."""
    values = tokens()
    scale = limiting_scale(values, 4.0)
    torch.testing.assert_close(limiting_scale(1e3 * values, 4.0), scale)
    torch.testing.assert_close(torch.cat([limiting_scale(one[None], 4.0) for one in values]), scale)
    padded = torch.cat([values, torch.full((3, 6, 5), 50.0, dtype=torch.float64)], dim=1)
    counted = torch.arange(15).expand(3, 15) < 9
    torch.testing.assert_close(limiting_scale(padded, 4.0, counted)[:, :9], scale)


def test_silent_samples_are_left_alone() -> None:
    """Where most tokens have no energy nothing is usual, and nothing is scaled to zero."""
    values = torch.zeros(1, 5, 3)
    values[0, 0] = 7.0
    assert torch.equal(limiting_scale(values, 4.0), torch.ones(1, 5))
