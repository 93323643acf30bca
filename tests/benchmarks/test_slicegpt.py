"""Does SliceGPT, as we write it, slice what the paper slices?"""

from types import ModuleType

import pytest
import torch

from snp.settings import PruneSettings
from snp.surgery.subject import survey
from tests.audit import outputs
from tests.command_line import BENCHMARKS
from tests.transformer_models import token_batches, transformer


@pytest.fixture
def slicegpt(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import peers.slicegpt

    return peers.slicegpt


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_all_directions_leave_the_network_as_it_was(slicegpt: ModuleType, name: str) -> None:
    """A rotation and nothing else."""
    model, batches = transformer(name).double(), token_batches(12)
    torch.testing.assert_close(
        outputs(slicegpt.sliced(model, batches, 9.0), batches[0]), outputs(model, batches[0]), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_the_stream_keeps_so_many_directions(slicegpt: ModuleType, name: str) -> None:
    """In front of every norm, and what goes by the branch is sliced, too."""
    model, batches = transformer(name).double(), token_batches(30)
    small = slicegpt.sliced(model, batches, 0.8)
    seen: list[torch.Tensor] = []
    norms = [module for module in small.modules() if isinstance(module, slicegpt.SlicedNorm)]
    for norm in norms:
        norm.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, -2)))
    outputs(small, torch.cat(batches))
    assert len(norms) == len(seen) == 5
    for rows in seen:
        assert int(torch.linalg.matrix_rank(rows, rtol=1e-6)) == norms[0].kept


def test_parameters_are_counted_as_they_would_be_stored(slicegpt: ModuleType) -> None:
    """Layers with fewer columns or rows, no norms, and a matrix in every shortcut; embeddings apart."""
    found = survey(transformer("llama"), token_batches(2)[0], PruneSettings(structures=("width",)))
    width, hidden, words, blocks = 16, 24, 32, 2

    def stored(kept: int) -> int:
        attention = 2 * kept * width + 2 * kept * width // 2
        return blocks * (attention + 3 * kept * hidden + 2 * kept**2) + words * kept

    dense = stored(width) - blocks * 2 * width**2 + (2 * blocks + 1) * width
    kept = slicegpt.num_directions(found, 0.8)
    assert stored(kept) <= 0.8 * dense < stored(kept + 1)
