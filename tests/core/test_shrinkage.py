"""Is the shrunk Gram matrix the published one, and does it tell chance from dependence?"""

import pytest
import torch
from sklearn.covariance import oas

from snp.core.shrinkage import shrunk


def samples(num_samples: int, num_columns: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(num_columns, num_columns, generator=generator, dtype=torch.float64)
    return torch.randn(num_samples, num_columns, generator=generator, dtype=torch.float64) @ mixing


@pytest.mark.parametrize(("num_samples", "num_columns"), [(5, 40), (40, 40), (400, 7), (30, 2), (20, 1)])
def test_equals_the_reference(num_samples: int, num_columns: int) -> None:
    """scikit-learn computes the same from the samples."""
    rows = samples(num_samples, num_columns)
    reference, _ = oas(rows.numpy(), assume_centered=True)
    found = shrunk(rows.T @ rows / num_samples, num_samples)
    torch.testing.assert_close(found, torch.from_numpy(reference), rtol=1e-9, atol=1e-9)


def test_trace_stays_and_many_samples_need_none() -> None:
    """Energy is moved, not made; with more samples the matrix is left as it is."""
    rows = samples(300, 6)
    gram = rows.T @ rows / 300
    torch.testing.assert_close(shrunk(gram, 300).trace(), gram.trace())
    torch.testing.assert_close(shrunk(gram, 10**9), gram, rtol=1e-6, atol=1e-6)


def test_few_samples_explain_nothing_exactly() -> None:
    """With fewer samples than columns no column is a combination of the others any more."""
    rows = samples(10, 30)
    gram = rows.T @ rows / 10
    assert int(torch.linalg.matrix_rank(gram)) == 10
    assert float(torch.linalg.eigvalsh(shrunk(gram, 10))[0]) > 0.01 * float(gram.diagonal().mean())


def test_nothing_measured_stays_nothing() -> None:
    """A dead layer's zeros, and equal columns of equal energy, are legal."""
    assert not shrunk(torch.zeros(4, 4, dtype=torch.float64), 3).any()
    eye = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(shrunk(eye, 3), eye)
