"""Networks that switch gradients off and on themselves are pruned as if they did not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import snp
from snp.graph.batches import Batch
from snp.graph.program import program_of

ROWS = torch.randn(128, 12, generator=torch.Generator().manual_seed(0))


class Plain(nn.Module):
    """Four layers, the first two of which are the backbone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.d = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def backbone(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu()).relu()

    def head(self, x: Tensor) -> Tensor:
        return self.d(self.c(x).relu())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


class Frozen(Plain):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.backbone(x)
        return self.head(x)


class Nested(Plain):
    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(False):
            x = self.a(x).relu()
            with torch.enable_grad():
                x = self.b(x).relu()
        with torch.set_grad_enabled(True):
            return self.head(x)


class Whole(Plain):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


@pytest.mark.parametrize("kind", [Frozen, Nested, Whole])
def test_the_small_network_is_that_of_the_plain_one(kind: Callable[[], Plain]) -> None:
    """Units, damages and weights: sensitivities reach through what is switched off."""
    plain, model = Plain().eval(), kind()
    found = [snp.prune(each, ROWS.split(32), target_macs=0.5, round_to=1, progress=False) for each in (plain, model)]
    kept = [[decision.kept.tolist() for decision in each.plan.groups] for each in found]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 3
    for name, value in found[0].model.state_dict().items():
        torch.testing.assert_close(found[1].model.state_dict()[name], value)
    assert not found[1].model(ROWS).isnan().any()
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("kind", [Frozen, Nested, Whole])
def test_programs_have_no_parts(kind: Callable[[], Plain]) -> None:
    """And compute what they did, outputs under their names."""
    model = kind().eval()
    program = program_of(model, Batch.of(ROWS))
    assert {node.op for node in program.graph.nodes} == {"placeholder", "call_function", "output"}
    assert sum("linear" in str(node.target) for node in program.graph.nodes) == 4
    assert torch.equal(program.module()(ROWS), model(ROWS))


def test_layers_inside_a_transform_are_named() -> None:
    """Nobody sees what they read."""

    class Mapped(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.vmap(self.backbone)(x))

    for options in ({}, {"preset": "paper"}):
        with pytest.raises(ValueError, match=r"calls layer [ab] inside torch\.vmap"):
            snp.prune(Mapped(), ROWS.split(32), target_macs=0.5, progress=False, **options)


@pytest.mark.parametrize("layer", [nn.LazyLinear(8), nn.LazyBatchNorm1d(affine=False)], ids=["weight", "buffer"])
def test_layers_without_values_are_refused(layer: nn.Module) -> None:
    """Those of a copy would be others than the model's own."""
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), layer, nn.ReLU(), nn.LazyLinear(3))
    with pytest.raises(ValueError, match=r"\d\.\w+ has no values yet \(a lazy layer\): call the model"):
        snp.prune(model, ROWS.split(32), target_macs=0.5, progress=False)
    model(ROWS)
    assert snp.prune(model.eval(), ROWS.split(32), target_units=0.5, round_to=1, progress=False).plan.groups
