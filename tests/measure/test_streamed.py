"""Does calibration block by block give the very same plan as all at once, with less in memory?"""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import snp
from snp.core.gram import Moments
from snp.fit.recomputed import RecomputedNetworks
from snp.fit.rows import equal_batches
from snp.fit.two_networks import TwoNetworks
from snp.graph.batches import Batch
from snp.library import prune_streamed
from snp.measure.blocks import blocks_of
from snp.measure.moments import MomentCollector
from snp.measure.streamed import MomentsOnDisk, stream_moments
from snp.settings import PruneSettings
from snp.surgery.subject import subject_of
from tests import networks
from tests.audit import randomise
from tests.transformer_models import CONFIGS, token_batches, transformer

VIT = {"img_size": 16, "patch_size": 8, "depth": 2, "embed_dim": 16, "num_heads": 2, "num_classes": 5}
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


def test_padding_is_no_sample(tmp_path: Path) -> None:
    """As in whole passes: tokens that a mask leaves out say nothing."""
    model, tokens = transformer("llama"), torch.cat(token_batches())
    mask = (torch.arange(12) < torch.arange(3, 27)[:, None].clamp(max=12)).long()
    batches = [
        Batch((), {"input_ids": t, "attention_mask": m}) for t, m in zip(tokens.split(6), mask.split(6), strict=True)
    ]
    readers = subject_of(model, batches[0].example(), PruneSettings()).readers
    with torch.no_grad(), MomentCollector(model, readers) as collector:
        for batch in batches:
            collector.run(batch)
    found = stream_moments(model, batches, readers, tmp_path)
    for weight, moments in collector.moments.items():
        assert found[weight].count == moments.count == int(mask.sum())
        assert torch.equal(found[weight].second, moments.second)
    options = {"target_params": 0.8, "preset": "paper"}
    given = [dict(batch.kwargs) for batch in batches]
    assert_equal(prune_streamed(model, given, **options), snp.prune(model, given, **options))


def samples_of(name: str, count: int = 24) -> tuple[nn.Module, list[Tensor]]:
    """A network by name and batches of six samples."""
    if name != "vit":
        return transformer(name), token_batches(count)
    model = randomise(timm.create_model("vit_tiny_patch16_224", **VIT)).eval()
    return model, list(torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)).split(6))


def assert_equal(found: snp.pruning.PruneResult, wanted: snp.pruning.PruneResult) -> None:
    """The units and every tensor, to the bit."""
    assert [group.kept.tolist() for group in found.plan.groups] == [group.kept.tolist() for group in wanted.plan.groups]
    tensors = found.model.state_dict()
    for key, tensor in wanted.model.state_dict().items():
        assert torch.equal(tensors[key], tensor), key


OPTIONS = {
    "zca": JOINT,
    "residual": {**JOINT, "ordering": "residual"},
    "variance": {**JOINT, "ordering": "variance"},
    "saw": {**JOINT, "ordering": "saw"},
    "zca, fitted in sequence": {"ordering": "zca", "cut": "variance"},
    "the same at one ridge": {"ordering": "zca", "cut": "variance", "ridge": 1e-3},
    "defaults without trials": {"trials": False},
    "quick": {"preset": "quick"},
}


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        *(("opt", asked) for asked in ("zca", "residual", "variance", "saw", "the same at one ridge")),
        *((name, "zca, fitted in sequence") for name in ("opt", "llama", "vit")),
        *((name, "defaults without trials") for name in ("opt", "opt_post_norm", "llama", "vit")),
        *((name, "quick") for name in ("llama", "vit")),
    ],
)
def test_plan_and_network_are_the_same(name: str, asked: str) -> None:
    """plan.json and every tensor; of few samples, for which fits are compared on samples held back."""
    model, batches = samples_of(name)
    options = {"target_params": 0.8, **OPTIONS[asked]}
    whole, streamed = snp.prune(model, batches, **options), prune_streamed(model, batches, **options)
    assert streamed.plan.to_json() == whole.plan.to_json()
    assert_equal(streamed, whole)


def test_they_are_the_same_where_blocks_are_single_layers() -> None:
    """A layer that is a block itself is measured in its turn."""
    torch.manual_seed(0)
    layers = (nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    model, batches = nn.Sequential(*layers).eval(), [torch.randn(32, 8) for _ in range(4)]
    options: dict[str, Any] = {"target_params": 0.8, "trials": False}
    whole, streamed = snp.prune(model, batches, **options), prune_streamed(model, batches, **options)
    assert streamed.plan.to_json() == whole.plan.to_json()
    assert_equal(streamed, whole)


@pytest.mark.parametrize("name", ["opt", "llama", "vit"])
def test_they_are_the_same_where_a_block_is_computed_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A little less memory than all values take at once: no sample is left out for that."""
    model, batches = samples_of(name, 640)
    alike = equal_batches([batch.beside(model) for batch in Batch.all(batches)], 128)
    made: list[RecomputedNetworks] = []
    needed: list[int] = []

    def networks(*args: Any, **keywords: Any) -> RecomputedNetworks:
        made.append(RecomputedNetworks(*args, **keywords))
        return made[-1]

    limit = TwoNetworks.limit

    def limited(networks: TwoNetworks, memory: int) -> int:
        needed.append(networks.bytes_per_batch)
        return limit(networks, memory)

    monkeypatch.setattr("snp.fit.within_memory.RecomputedNetworks", networks)
    monkeypatch.setattr(TwoNetworks, "limit", limited)
    options = {"target_params": 0.8, "ordering": "zca", "cut": "variance", "mirrored": False}
    whole = snp.prune(model, batches, **options)
    streamed = prune_streamed(model, batches, memory_gib=(needed[0] * len(alike) - 1) / 2**30, **options)
    (network,) = made
    assert network.batch_size == 128
    assert_equal(streamed, whole)


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
    per_block, check = len(readers) // 2, ["run 0", "run 1"]
    assert events == [*check, *["run 0"] * 4, *["write"] * per_block, *["run 1"] * 4, *["write"] * per_block]


def test_what_needs_more_than_moments_is_refused() -> None:
    """Trial cuts are of the whole network."""
    with pytest.raises(ValueError, match=r"prune\.trials=false"):
        prune_streamed(transformer("opt"), token_batches(), target_params=0.8)
    with pytest.raises(ValueError, match=r"prune\.target_latency"):
        prune_streamed(transformer("opt"), token_batches(), target_latency=0.8, **JOINT)


def test_a_network_without_blocks_is_refused() -> None:
    """The usual path is named."""
    with pytest.raises(ValueError, match=r"calibrate it as a whole with snp\.prune"):
        prune_streamed(networks.cnn().eval(), [networks.images(4)], target_macs=0.5, conv_gram="channel", **JOINT)


class Branches(nn.Module):
    """Blocks of which the second gets what the first one got."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 6)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[0](x) + self.blocks[1](x)


class Skipped(Branches):
    """The second block is not called."""

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[0](x)


def test_blocks_that_do_not_follow_each_other_are_refused(tmp_path: Path) -> None:
    """Moments of something else than the network computes are never made."""
    readers = subject_of(Branches().eval(), torch.randn(2, 6), PruneSettings()).readers
    for model, words in ((Branches(), "blocks.1 does not get"), (Skipped(), "blocks.1 is not called")):
        with pytest.raises(ValueError, match=words):
            stream_moments(model.eval(), [Batch((torch.randn(4, 6),))], readers, tmp_path)


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
