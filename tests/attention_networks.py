"""Which small attention networks do several test files cut, and how?"""

from collections import Counter
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from timm.layers.mlp import SwiGLUPacked
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from snp.graph import CouplingGraph
from snp.graph.batches import Batch
from snp.graph.units import UnitGroup
from snp.plan.costs import CostModel
from snp.plan.plan import GroupPlan, PruningPlan
from snp.speed.network import macs
from snp.surgery.attention_fused import in_place_of
from snp.surgery.checks import self_check
from snp.surgery.surgery import cut, masked_weights, with_weights
from snp.surgery.trial_cuts import confirm
from tests.audit import audit, control, randomise

__all__ = [
    "NETWORKS",
    "Grouped",
    "assert_cut_is_right_and_counted",
    "build",
    "check_structures",
    "in_place_of_stock",
    "irregular",
    "pictures",
    "words",
]

SMALL = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}


class Grouped(nn.Module):
    """Causal self-attention with separate projections, four query heads on two heads of keys and values: [N, 7, 16]."""

    def __init__(self, fused: bool, bias: bool = True) -> None:
        super().__init__()
        self.fused = fused
        self.enter = nn.Linear(16, 16)
        self.query, self.key, self.value = nn.Linear(16, 24, bias), nn.Linear(16, 12, bias), nn.Linear(16, 12, bias)
        self.out, self.head = nn.Linear(24, 16, bias), nn.Linear(16, 5)
        self.num_heads, self.num_kv_heads = 4, 2

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.enter(tokens)
        query = self.query(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [N, H, 7, 6]
        key, value = (
            layer(x).unflatten(-1, (self.num_kv_heads, -1)).transpose(1, 2) for layer in (self.key, self.value)
        )
        if self.fused:
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.4, enable_gqa=True)
        else:
            key, value = (part.repeat_interleave(self.num_heads // self.num_kv_heads, 1) for part in (key, value))
            scores = query @ key.transpose(-2, -1) * 0.4 + torch.full((7, 7), -1e9).triu(1)
            mixed = scores.softmax(dim=-1) @ value
        return self.head(x + self.out(mixed.transpose(1, 2).flatten(2))).mean(1)


def _vit(**arguments: object) -> nn.Module:
    return VisionTransformer(**(SMALL | arguments))


def _eager() -> nn.Module:
    model = _vit()
    for block in model.blocks:
        block.attn.fused_attn = False
    return model


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vit": _vit,
    "vit without biases": lambda: _vit(qkv_bias=False),
    "vit with registers, layer scale and gated units": lambda: _vit(
        reg_tokens=2, init_values=0.3, mlp_layer=SwiGLUPacked
    ),
    "vit with normalised queries": lambda: _vit(qk_norm=True),
    "distilled": lambda: VisionTransformerDistilled(**SMALL),
    "eager vit": _eager,
    "shared keys": lambda: Grouped(fused=True),
    "shared keys, eager": lambda: Grouped(fused=False, bias=False),
}


def pictures(count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def words(count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, 7, 16, generator=torch.Generator().manual_seed(seed))


def build(name: str, count: int = 2) -> tuple[nn.Module, Tensor]:
    """A network with values everywhere, and a batch for it."""
    torch.manual_seed(0)
    return randomise(NETWORKS[name]()), words(count) if name.startswith("shared") else pictures(count)


def irregular(graph: CouplingGraph, groups: tuple[UnitGroup, ...], seed: int = 0) -> PruningPlan:
    """Random units, as many in every partition, by way of text: what a plan says is all there is."""
    generator = torch.Generator().manual_seed(seed)
    decisions = []
    for group in groups:
        size = group.units_per_partition
        count = int(torch.randint(1, size + 1, (1,), generator=generator))
        parts = [torch.randperm(size, generator=generator)[:count] + p * size for p in range(group.num_partitions)]
        decisions.append(GroupPlan(group, torch.cat(parts).sort().values))
    return PruningPlan.from_json(PruningPlan(tuple(decisions), attention=graph.attention).to_json())


def assert_cut_is_right_and_counted(
    model: nn.Module, graph: CouplingGraph, groups: tuple[UnitGroup, ...], plan: PruningPlan, batch: Tensor
) -> tuple[nn.Module, nn.Module]:
    """Masked and small network: the same outputs, MACs as the profiler counts them, parameters as they are."""
    masked = with_weights(model, masked_weights(model, plan))
    small = cut(masked, plan)
    assert self_check(masked, small, Batch.of(batch)) < 1e-5
    costs = CostModel(model, graph, groups)
    kept = [len(decision.kept) for decision in plan.groups]
    assert costs.macs(kept) == macs(small, batch[:1])
    assert costs.params(kept) == sum(parameter.numel() for parameter in small.parameters())
    return masked, small


def in_place_of_stock(model: nn.Module, graph: CouplingGraph) -> nn.Module:
    """The same network with our attention modules, of which nothing is cut."""
    ours = cut(model, PruningPlan((), attention=graph.attention))
    for layer in graph.attention:
        module = in_place_of(ours.get_submodule(layer.module), layer, layer.sizes(), layer.sizes())
        assert module is not None
        ours.set_submodule(layer.module, module)
    return ours


def check_structures(model: nn.Module, graph: CouplingGraph, inputs: Tensor, counts: Mapping[str, int]) -> None:
    """As many groups of each kind inside attention; none is refused on trial, each passes the audit and does something.

    Args:
        model: of random weights.
        graph: of it.
        inputs: one batch.
        counts: kind -> groups.
    """
    found = [group for group in graph.groups if group.kind in ("qk", "vo", "heads")]
    assert Counter(group.kind for group in found) == counts
    assert not confirm(model, graph.groups, Batch.of(inputs), graph.attention)[1]
    for group in found:
        if not group.is_multiplied:
            assert audit(model, [group], inputs) < 1e-5, group.name
            assert control(model, [group], inputs) > 1e-7, group.name
