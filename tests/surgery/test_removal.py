"""Which blocks can be taken out of a network, and is what is left the network with zeros in them?"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snp.graph.batches import Batch
from snp.graph.counting import macs_of_batch
from snp.graph.residual import ResidualBlock
from snp.plan.plan import PruningPlan
from snp.settings import PruneSettings
from snp.surgery.checks import self_check
from snp.surgery.passing import PassOn, without_blocks, zeroed_writers
from snp.surgery.subject import Subject, subject_of
from snp.surgery.surgery import cut, masked_weights, with_weights
from tests.residual_networks import Attending, Basic, Chain, Scaled, chain, vectors

KINDS = (Basic, Attending, Scaled)
SETTINGS = PruneSettings(structures=("ffn", "blocks"), target_macs=0.5)


def subject(kind: type[nn.Module], **options: Any) -> Subject:
    return subject_of(chain(kind), vectors(kind, 2), PruneSettings(**{"structures": ("ffn", "blocks"), **options}))


WRITERS = {
    Basic: ("last.weight", "last.bias"),
    Attending: ("out.weight", "out.bias", "down.weight", "down.bias"),
    Scaled: ("gamma",),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_block_is_found_with_what_makes_its_branches(kind: type[nn.Module]) -> None:
    found = subject(kind).removable
    assert [block.name for block in found] == ["blocks.0", "blocks.1", "blocks.2"]
    assert all(block.writers == tuple(f"{block.name}.{name}" for name in WRITERS[kind]) for block in found)
    assert {block.num_outputs for block in found} == ({2} if kind is Scaled else {None})
    small = cut(chain(kind), PruningPlan((), removed_blocks=found[:1]))
    assert type(small.blocks[0]) is (PassOn if kind is Scaled else nn.Identity)


@pytest.mark.parametrize("gone", [(0,), (2,), (0, 1), (0, 1, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_without_blocks_is_with_zeros_in_them(kind: type[nn.Module], gone: tuple[int, ...]) -> None:
    found, inputs = subject(kind), vectors(kind, 9)
    plan = PruningPlan((), removed_blocks=tuple(found.removable[number] for number in gone))
    masked = with_weights(found.model, masked_weights(found.model, plan))
    small = cut(found.model, plan)
    assert torch.equal(small(inputs), masked(inputs))
    assert self_check(masked, small, Batch((inputs,)), plan) == 0
    lost = tuple(f"blocks.{number}." for number in gone)
    left = {name for name, _ in found.model.named_parameters() if not name.startswith(lost)}
    assert {name for name, _ in small.named_parameters()} == left


@pytest.mark.parametrize("kind", KINDS)
def test_costs_are_those_of_the_network_without_them(kind: type[nn.Module]) -> None:
    """Attention multiplies activations with each other; that goes, too."""
    found, batch = subject(kind), Batch((vectors(kind, 4),))
    for gone in (found.removable[:1], found.removable[1:], found.removable):
        small, costs = without_blocks(with_weights(found.model, {}), gone), found.costs.without(gone)
        assert costs.macs(costs.dense) == macs_of_batch(small, batch)
        assert costs.params(costs.dense) == sum(parameter.numel() for parameter in small.parameters())
        share = costs.share_of(SETTINGS.target)(costs.dense)
        assert share == pytest.approx(macs_of_batch(small, batch) / macs_of_batch(found.model, batch))


class Gated(nn.Module):
    """Multiplies the stream: nothing that zeros would switch off."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x).sigmoid()


class Normed(nn.Module):
    """Normalises the sum: with zeros in its branch it does not give out its input."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(8, 24), nn.Linear(24, 8), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.down(self.up(x).relu()))


class Halved(Normed):
    """Halves the stream on the way."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x + self.down(self.up(x).relu())


class Doubled(Normed):
    """Adds a constant, which no zeros of its own switch off."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu()) + 1.0


@pytest.mark.parametrize("odd", [Gated, Normed, Halved, Doubled])
def test_what_does_not_give_out_its_input_is_no_candidate(odd: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = Chain(nn.Linear(8, 8), [Plain(), odd(), Plain()]).eval()
    found = subject_of(model, torch.randn(2, 8), SETTINGS)
    assert [block.name for block in found.removable] == ["blocks.0", "blocks.2"]


class Plain(Normed):
    """A hidden layer beside the stream."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


class Twice(Chain):
    """Its first block is called twice."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.blocks[0](x))


def test_what_is_called_twice_stays() -> None:
    model = Twice(nn.Linear(8, 8), [Plain(), Plain()]).eval()
    found = subject_of(model, torch.randn(2, 8), SETTINGS)
    assert [block.name for block in found.removable] == ["blocks.1"]


def test_what_shares_a_tensor_stays() -> None:
    model = Chain(nn.Linear(8, 8), [Plain(), Plain(), Plain()]).eval()
    model.blocks[1].down.weight = model.blocks[0].down.weight
    found = subject_of(model, torch.randn(2, 8), SETTINGS)
    assert [block.name for block in found.removable] == ["blocks.2"]


def test_of_blocks_inside_each_other_the_inner_ones_are_taken() -> None:
    model = Chain(nn.Linear(8, 8), [nn.Sequential(Plain(), Plain()), Plain()]).eval()
    found = subject_of(model, torch.randn(2, 8), SETTINGS)
    assert [block.name for block in found.removable] == ["blocks.0.0", "blocks.0.1", "blocks.1"]


@pytest.mark.parametrize(
    ("blocks", "reason"),
    [
        (lambda: [Normed(), Normed()], r"no entry of an nn\.Sequential or nn\.ModuleList adds to what it gets"),
        (lambda: [Plain()] * 2, r"blocks\.0: as a whole: it, or a tensor of it, is used more than once"),
    ],
)
def test_networks_without_blocks_are_refused(blocks: Callable[[], list[nn.Module]], reason: str) -> None:
    model = Chain(nn.Linear(8, 8), blocks()).eval()
    with pytest.raises(ValueError, match=rf"prune\.structures: nothing in Chain can go .*{reason}.*Leave blocks out"):
        subject_of(model, torch.randn(2, 8), SETTINGS)


def test_what_ignore_names_stays() -> None:
    assert [block.name for block in subject(Basic, ignore=("blocks.1",)).removable] == ["blocks.0", "blocks.2"]
    assert [block.name for block in subject(Basic, ignore=("*.2.last.*",)).removable] == ["blocks.0", "blocks.1"]


def test_nothing_is_looked_for_where_nobody_asks() -> None:
    assert subject_of(chain(Basic), vectors(Basic, 2), PruneSettings()).removable == ()


def test_a_plan_for_another_network_is_refused() -> None:
    plan = PruningPlan((), removed_blocks=(ResidualBlock("blocks.7", ("blocks.7.last.weight",)),))
    with pytest.raises(ValueError, match=r"takes out blocks\.7, which this model does not have"):
        cut(chain(Basic), plan)


def test_a_plan_comes_back_from_its_file(tmp_path: Any) -> None:
    plan = PruningPlan((), removed_blocks=subject(Scaled).removable[1:])
    plan.save(tmp_path / "plan.json")
    again = PruningPlan.load(tmp_path / "plan.json")
    assert again.removed_blocks == plan.removed_blocks
    assert again.mark == plan.mark != PruningPlan(()).mark
    assert "Removed as whole blocks: blocks.1, blocks.2." in str(plan)


def test_zeros_are_of_the_form_of_what_they_stand_for() -> None:
    found = subject(Basic)
    zeros = zeroed_writers(found.model, found.removable)
    assert zeros.keys() == {f"blocks.{n}.last.{name}" for n in range(3) for name in ("weight", "bias")}
    assert not any(bool(value.any()) for value in zeros.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "options", "num_blocks"),
    [
        ("resnet10t", 64, {}, 1),
        ("mobilenetv3_small_050", 64, {}, 7),
        ("convnext_atto", 64, {}, 12),
        ("vit_tiny_patch16_224", 32, {"img_size": 32}, 12),
        ("swin_tiny_patch4_window7_224", 56, {"img_size": 56, "window_size": 7}, 12),
        ("poolformer_s12", 64, {}, 12),
        ("mixer_s32_224", 64, {"img_size": 64}, 8),
    ],
)
def test_blocks_of_networks_of_timm(name: str, size: int, options: dict[str, Any], num_blocks: int) -> None:
    """All that keep their form are found, and what goes is counted to the last product."""
    model = pytest.importorskip("timm").create_model(name, num_classes=5, **options).eval()
    inputs = torch.randn(2, 3, size, size)
    found = subject_of(model, inputs, SETTINGS)
    assert len(found.removable) == num_blocks
    costs, small = found.costs.without(found.removable), without_blocks(with_weights(found.model, {}), found.removable)
    assert costs.macs(costs.dense) == macs_of_batch(small, Batch((inputs,)))
    masked = with_weights(found.model, zeroed_writers(found.model, found.removable))
    assert torch.equal(small(inputs), masked(inputs))
