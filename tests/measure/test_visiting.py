"""Is a network in main memory, whose blocks visit a device one after the other, worked on as if it was there whole?"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, fx, nn

from snp.fit.two_networks import TwoNetworks
from snp.graph.batches import Batch
from snp.library import prune_streamed
from snp.measure.blocks import blocks_of
from snp.measure.checkpointed import checkpointed
from snp.measure.sensitivity import measure_sensitivity
from snp.measure.streamed import stream_moments
from snp.measure.visiting import Visits
from snp.settings import PruneSettings
from snp.surgery.subject import subject_of
from tests.audit import randomise
from tests.fit.test_recomputed import Deep
from tests.measure.test_streamed import OPTIONS, assert_equal, samples_of
from tests.second_device import SECOND, second_device


@pytest.mark.parametrize(
    ("name", "asked", "memory"),
    [
        ("llama", "defaults without trials", 8.0),
        ("vit", "zca", 8.0),
        ("opt", "zca, fitted in sequence", 1e-4),  # GiB: blocks are computed again
        ("opt_post_norm", "zca", 8.0),
    ],
)
def test_plan_and_network_are_the_same(name: str, asked: str, memory: float) -> None:
    """To the bit: only the place is another one; the small network lies in main memory, like the dense one."""
    model, batches = samples_of(name)
    before = {key: (tensor.data_ptr(), tensor.clone()) for key, tensor in model.state_dict().items()}
    options = {"target_params": 0.8, "round_to": 1, "memory_gib": memory, **OPTIONS[asked]}
    wanted = prune_streamed(model, batches, **options)
    with second_device():
        found = prune_streamed(model, batches, device=SECOND, **options)
        assert {tensor.device.type for tensor in found.model.state_dict().values()} == {"cpu"}
    assert_equal(found, wanted)
    for key, (place, values) in before.items():
        assert model.state_dict()[key].data_ptr() == place, key
        assert torch.equal(model.state_dict()[key], values), key


@pytest.mark.parametrize("ridge", [1e-3, pytest.param(None, marks=pytest.mark.slow)])  # None: outputs are compared
def test_memory_there_does_not_grow_with_depth(ridge: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of moments, gradients, the fit in sequence and outputs, to the byte: one block after the other."""
    # Which matrices are small enough to be worked on there is another question.
    for room in ("snp.plan.statistics.place_of", "snp.fit.joint.place_of"):
        monkeypatch.setattr(room, lambda *_: torch.device("cpu"))
    # As many units from every block, so that blocks in the middle are alike.
    options = {"target_units": 0.5, "planner": "snp", "cut": "uniform", "trials": False, "round_to": 1, "ridge": ridge}
    peaks = []
    for depth in (3, 5):
        model, batches = randomise(Deep(depth)).eval(), list(torch.randn(8, 7, 16).split(4))
        with second_device(watches=True) as places:
            prune_streamed(model, batches, device=SECOND, memory_gib=1e-5, **options)
        peaks.append(places.peak)
    assert peaks[0] == peaks[1]


def test_one_block_is_there_at_a_time() -> None:
    """In every forward pass and on the way back; what stands before and behind the blocks is there all along."""
    model, batches = randomise(Deep(3)).eval(), [Batch((torch.randn(4, 7, 16),)) for _ in range(2)]
    readers = subject_of(model, batches[0].example(), PruneSettings()).readers
    wanted = measure_sensitivity(model, batches, readers, torch.Generator().manual_seed(0))
    names, seen = blocks_of(model, readers), list[tuple[str, ...]]()

    def look(*_: object) -> None:
        placed = {name for name, tensor in model.named_parameters() if tensor.device == SECOND}
        assert {"head.weight", "head.bias"} <= placed
        seen.append(tuple(block for block in names if any(name.startswith(f"{block}.") for name in placed)))

    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(look)
            module.register_forward_hook(look)
    with second_device():
        visits = Visits(tuple(names), SECOND)
        with visits.of(model), checkpointed(model, names, visits):
            fisher = measure_sensitivity(model, batches, readers, torch.Generator().manual_seed(0), visits=visits)
        assert {matrix.device.type for matrix in fisher.values()} == {"cpu"}
        assert {tensor.device.type for tensor in model.parameters()} == {"cpu"}
    assert {blocks for blocks in seen if len(blocks) != 1} <= {()}
    assert {blocks[0] for blocks in seen if blocks} == set(names)
    assert all(torch.equal(fisher[name], matrix) for name, matrix in wanted.items())


def test_weights_on_disk_are_read_block_by_block(tmp_path: Path) -> None:
    """Tensors that are mapped from a file stay so, and nothing is written to them."""
    model, batches = samples_of("llama")
    options = {"target_params": 0.8, **OPTIONS["zca"]}
    wanted = prune_streamed(model, batches, **options)
    path = tmp_path / "dense.safetensors"
    save_file({name: tensor for name, tensor in model.state_dict().items()}, path)
    model.load_state_dict(load_file(path), assign=True)
    before, places = path.read_bytes(), [tensor.data_ptr() for tensor in model.parameters()]
    with second_device():
        found = prune_streamed(model, batches, device=SECOND, **options)
    assert_equal(found, wanted)
    assert [tensor.data_ptr() for tensor in model.parameters()] == places
    assert path.read_bytes() == before


class Placed(nn.Module):
    """Makes positions by itself, in a part of its program that stands apart."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Linear(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            places = torch.arange(x.shape[1], device=x.device) + torch.zeros(x.shape[1], device=x.device)
        return self.blocks(x + places) + torch.ones(6, device=x.device)


def test_what_a_program_makes_by_itself_is_there() -> None:
    """Of a network that was exported in main memory, its inner graphs among it."""
    model, batch, outputs = Placed().eval(), Batch((torch.randn(4, 6),)), list[Tensor]()

    def visit(networks: TwoNetworks, node: fx.Node) -> None:
        outputs[:] = [values[0] for values in networks.dense.values() if isinstance(values[0], Tensor)]

    with second_device(), torch.enable_grad():
        networks = TwoNetworks(model, [batch], visit, visits=Visits(("blocks.0",), SECOND))
        assert any("wrap_with_autocast" in str(node.target) for node in networks.graph.nodes)
        networks.run()
        assert {value.device for value in outputs} == {SECOND}
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


class Failing(nn.Module):
    """A block that fails."""

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("out of memory")


def test_a_network_comes_back_when_a_block_fails() -> None:
    """All tensors are in main memory again, and every module computes what it did."""
    model = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.Sequential(nn.Linear(6, 6)), Failing()), nn.Linear(6, 2))
    with second_device(), Visits(("1.0", "1.1"), SECOND).of(model), pytest.raises(RuntimeError, match="out of memory"):
        model(torch.randn(2, 6))
    assert not any("forward" in module.__dict__ for module in model.modules())
    with second_device():
        assert {tensor.device.type for tensor in model.parameters()} == {"cpu"}


def test_a_device_that_cannot_be_visited_is_refused() -> None:
    """It is named, before anything is measured."""
    model, batches = samples_of("llama")
    with pytest.raises(ValueError, match="device='nowhere' cannot be used here"):
        prune_streamed(model, batches, device="nowhere", target_params=0.8, **OPTIONS["zca"])
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device='cuda' cannot be used here"):
            prune_streamed(model, batches, device="cuda", target_params=0.8, **OPTIONS["zca"])
    with second_device(), pytest.raises(ValueError, match=r"the network is on cuda:0: call model\.cpu\(\)"):
        prune_streamed(model.to(SECOND), batches, device="cpu", target_params=0.8, **OPTIONS["zca"])


class Copying(Deep):
    """What a block gets is a copy of what the one in front of it gives out."""

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x).clone()
        return self.head(x.mean(1))


def test_hidden_states_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    """They are equal to nothing, which does not mean that blocks do not follow each other."""
    model, batch = Copying(2).eval(), Batch((torch.randn(4, 7, 16),))
    readers = subject_of(model, batch.example(), PruneSettings()).readers
    assert stream_moments(model, [batch], readers, tmp_path)
    with torch.no_grad():
        next(model.blocks[0].parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match=r"hidden states that blocks\.1 gets hold NaN"):
        stream_moments(model, [batch], readers, tmp_path)
