"""Is what is calibrated on what was given, once each, and is an objective the same whoever asks for it?"""

import pytest
import torch
from torch import nn

from snp.graph.batches import Batch
from snp.measure.objective import Objective
from snp.measure.outputs import beside_spread_of, objective_of
from snp.measure.samples import FEW, GivenSamples, Samples
from tests.networks import cnn, images


@pytest.mark.parametrize("size", [1, 5, 64, 100])
def test_every_sample_is_given_once(size: int) -> None:
    """In order, whatever the batches; repeats are left out and counted, and a few are known before the rest is read."""
    wanted = images(100)
    raws = [*wanted.split(size), wanted[:7]]
    read = []
    given = GivenSamples(cnn(), (read.append(len(raw)) or raw for raw in raws))
    assert FEW <= sum(batch.size for batch in given.few) == sum(read)
    torch.testing.assert_close(torch.cat([batch.args[0] for batch in given]), wanted, rtol=0, atol=0)
    assert given.num_repeats == 7
    assert given.num_batches is None
    assert GivenSamples(cnn(), raws).num_batches == len(raws)


@pytest.mark.parametrize("mirrored", [False, True])
def test_what_was_given_comes_back(mirrored: bool) -> None:
    """Mirrored images stand behind theirs, count as no samples, and go again."""
    batches = [Batch.of(batch) for batch in images(20).split(8)]
    samples = Samples.of(batches, 3, mirrored=mirrored)
    assert samples.facts == {"samples": 20, "mirrored": mirrored, "repeats": 3}
    assert sum(batch.size for batch in samples.batches) == 20 * (1 + mirrored)
    for found, wanted in zip(samples.as_given, batches, strict=True):
        assert torch.equal(found.args[0], wanted.args[0])


@pytest.mark.parametrize("wanted", ["auto", "squared", "kl"])
def test_the_objective_is_the_one_that_these_samples_give(wanted: str) -> None:
    """Decided on a few samples and set beside the spread of others, it is what is decided on the others, to the bit."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.Tanh()).eval()
    pictures = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    others = [Batch.of(batch) for batch in (3 * pictures[20:]).split(8)]
    known = objective_of(model, [Batch.of(pictures[:20])], wanted)
    found, direct = beside_spread_of(known, model, others), objective_of(model, others, wanted)
    assert str(found) == str(direct)
    assert distances(found, model, others) == distances(direct, model, others)
    if wanted != "kl":
        assert distances(known, model, others) != distances(direct, model, others)
    assert beside_spread_of(known, model, []) is known


def distances(objective: Objective, model: nn.Module, batches: list[Batch]) -> list[float]:
    with torch.no_grad():
        outputs = [batch.call(model) for batch in batches]
    return [objective.distance(o, 0.9 * o, batch) for o, batch in zip(outputs, batches, strict=True)]
