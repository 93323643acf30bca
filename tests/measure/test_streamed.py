"""Does calibration block by block give the very same plan as all at once, with less in memory?"""

from pathlib import Path

import pytest
import torch
from torch import nn

import snp
from snp.core.gram import Moments
from snp.graph.batches import Batch
from snp.library import prune_streamed
from snp.measure.moments import MomentCollector
from snp.measure.streamed import MomentsOnDisk, blocks_of, stream_moments
from snp.settings import PruneSettings
from snp.surgery.subject import subject_of
from tests import networks
from tests.transformer_models import CONFIGS, token_batches, transformer

JOINT = {"calibration": "joint", "ordering": "zca", "cut": "variance"}


@pytest.mark.parametrize("name", CONFIGS)
def test_moments_are_those_of_whole_passes(name: str, tmp_path: Path) -> None:
    """Bit for bit, for every reader."""
    model, batches = transformer(name), token_batches()
    readers = subject_of(model, batches[0][:2], PruneSettings()).readers
    with torch.no_grad(), MomentCollector(model, readers) as collector:
        for batch in batches:
            model(batch)
    found = stream_moments(model, Batch.all(batches), readers, tmp_path)
    assert set(found) == set(readers)
    for weight, moments in collector.moments.items():
        assert torch.equal(found[weight].second, moments.second)
        assert torch.equal(found[weight].first, moments.first)
        assert found[weight].count == moments.count


@pytest.mark.parametrize("ordering", ["zca", "residual", "variance", "saw"])
@pytest.mark.parametrize("name", ["opt", "llama"])
def test_plan_and_network_are_the_same(name: str, ordering: str) -> None:
    """plan.json and every tensor, for the orderings of the paper."""
    model, batches, options = transformer(name), token_batches(), {**JOINT, "ordering": ordering, "target_params": 0.8}
    whole, streamed = snp.prune(model, batches, **options), prune_streamed(model, batches, **options)
    assert streamed.plan.to_json() == whole.plan.to_json()
    for key, tensor in whole.model.state_dict().items():
        assert torch.equal(streamed.model.state_dict()[key], tensor)


def test_one_block_is_measured_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No block runs before the one in front of it has seen every batch and put its moments on disk."""
    model, batches = transformer("opt"), token_batches()
    readers = subject_of(model, batches[0][:2], PruneSettings()).readers
    events: list[str] = []
    for index, block in enumerate(model.get_submodule(blocks_of(model, readers)[0].rpartition(".")[0])):
        block.register_forward_hook(lambda *_, index=index: events.append(f"run {index}"))
    write = MomentsOnDisk.add

    def add(self: MomentsOnDisk, name: str, moments: Moments) -> None:
        events.append("write")
        write(self, name, moments)

    monkeypatch.setattr(MomentsOnDisk, "add", add)
    stream_moments(model, Batch.all(batches), readers, tmp_path)
    per_block = len(readers) // 2
    assert events == [*["run 0"] * 4, *["write"] * per_block, *["run 1"] * 4, *["write"] * per_block]


def test_what_needs_more_than_moments_is_refused() -> None:
    """The defaults are sequential, and say so."""
    with pytest.raises(ValueError, match="calibration='joint'"):
        prune_streamed(transformer("opt"), token_batches(), target_params=0.8)
    with pytest.raises(ValueError, match=r"prune\.target_latency"):
        prune_streamed(transformer("opt"), token_batches(), target_latency=0.8, **JOINT)


def test_a_network_without_blocks_is_refused() -> None:
    """The usual path is named."""
    with pytest.raises(ValueError, match=r"calibrate it as a whole with snp\.prune"):
        prune_streamed(networks.cnn().eval(), [networks.images(4)], target_macs=0.5, conv_gram="channel", **JOINT)


def test_the_model_comes_back_as_it_was() -> None:
    """Training mode and weights are untouched."""
    model = transformer("opt").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = prune_streamed(model, token_batches(), target_params=0.8, **JOINT)
    assert model.training
    assert result.model.training
    assert isinstance(result.model, nn.Module)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_weights_that_lose_nothing_are_not_in_memory_twice() -> None:
    """Embeddings, norms and attention are the dense network's own tensors; what was cut or fitted is not."""
    model = transformer("opt")
    small = dict(prune_streamed(model, token_batches(), target_params=0.8, **JOINT).model.named_parameters())
    for name, tensor in model.named_parameters():
        shares = small[name].data_ptr() == tensor.data_ptr()
        assert shares == (name.split(".")[-2] not in ("fc1", "fc2") or name.endswith("fc2.bias")), name
