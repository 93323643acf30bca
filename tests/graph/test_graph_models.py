"""Is every group of the networks we claim complete, is every cut what the mask computes, is every cost exact?"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import timm
import torch
from timm.models.vgg import ConvMlp
from torch import Tensor, nn

import snp
from snp import models
from snp.graph import CouplingGraph, analyse
from snp.graph.batches import Batch
from snp.plan.costs import CostModel
from snp.plan.plan import GroupPlan, PruningPlan
from snp.speed.network import macs
from snp.surgery.checks import self_check
from snp.surgery.surgery import cut, masked_weights, with_weights
from snp.surgery.trial_cuts import confirm
from tests.audit import audit, control, randomise

# Network and size of its images: what is claimed runs every time, in sizes that keep it quick.
FAST = {
    "resnet18": 32,
    "resnet50": 32,
    "vgg16": 32,
    "mobilenetv3_small_100": 32,
    "mobilenetv2_100": 32,
    "tf_efficientnet_lite0": 32,
    "efficientnet_b0": 32,
    "densenet121": 32,
    "deit_tiny": 32,
    "deit_small": 32,
    "cifar_resnet": 16,
}
SLOW = {
    "convnext_atto": 64,
    "hrnet_w18_small": 64,
    "regnetx_002": 64,
    "ghostnet_100": 64,
    "mobilevit_xxs": 64,
    "swin_tiny_patch4_window7_224": 224,
    "mixer_s32_224": 224,
    "cspresnet50": 64,
    "dla34": 64,
}
NETWORKS = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


@dataclass(frozen=True)
class Case:
    """A network with values everywhere, a small batch, and what the analysis says."""

    model: nn.Module
    batch: Tensor
    graph: CouplingGraph


@cache
def case(name: str) -> Case:
    size = (FAST | SLOW)[name]
    torch.manual_seed(0)
    if name == "cifar_resnet":
        model = models.build("cifar_resnet", depth=20, num_classes=10, image_size=size)
    elif name.startswith("deit"):
        model = timm.create_model(f"{name}_patch16_224", img_size=size)
    elif name == "vgg16":
        model = timm.create_model(name)
        # The hidden layers of 4,096 would take all the time.
        model.pre_logits, model.head.fc = ConvMlp(512, 64, 7), nn.Linear(64, 10)
    else:
        model = timm.create_model(name)
    randomise(model)
    batch = torch.randn(2, 3, size, size)
    return Case(model, batch, analyse(model, batch))


def irregular(case: Case, streams: bool, seed: int = 0) -> PruningPlan:
    """A plan that keeps a random number of random units in every group that passes the trial."""
    groups = [group for group in case.graph.groups if streams or not group.is_stream]
    groups, _ = confirm(case.model, groups, Batch.of(case.batch))
    generator = torch.Generator().manual_seed(seed)
    decisions = []
    for group in groups:
        count = int(torch.randint(max(1, group.num_units // 3), group.num_units, (1,), generator=generator))
        kept = torch.randperm(group.num_units, generator=generator)[:count].sort().values
        decisions.append(GroupPlan(group, kept))
    return PruningPlan(tuple(decisions))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_group_passes_the_audit(name: str) -> None:
    """With readers' columns of some units zero, whatever else these units own may change: the output stays."""
    given = case(name)
    assert given.graph.groups
    for number, group in enumerate(given.graph.groups):
        moved = audit(given.model, [group], given.batch, seed=number)
        assert moved < 1e-4, (group.name, moved)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_group_matters(name: str) -> None:
    """Changed without the mask, each group's units move the output: the audit is not passed by dead branches."""
    given = case(name)
    for number, group in enumerate(given.graph.groups):
        assert control(given.model, [group], given.batch, seed=number) > 1e-6, group.name


# Its halves of a chunk are read by different layers: cut alone they are divided at the wrong place.
REFUSED = {"cspresnet50": 4}


@pytest.mark.parametrize("name", NETWORKS)
def test_trial_refuses_no_group(name: str) -> None:
    """The code of these networks bears every cut that the labels allow, but for what is known."""
    given = case(name)
    refused = confirm(given.model, given.graph.groups, Batch.of(given.batch))[1]
    assert len(refused) == REFUSED.get(name, 0), refused


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_cut_equals_mask_and_costs_are_exact(name: str, streams: bool) -> None:
    """A random irregular cut computes what the mask computes, and costs what the cost model says."""
    given = case(name)
    plan = irregular(given, streams)
    masked = with_weights(given.model, masked_weights(given.model, plan))
    small = cut(masked, plan)
    assert self_check(masked, small, Batch.of(given.batch)) < 1e-4
    costs = CostModel(given.model, given.graph, [decision.group for decision in plan.groups])
    kept = [len(decision.kept) for decision in plan.groups]
    assert costs.params(kept) == sum(parameter.numel() for parameter in small.parameters())
    assert costs.macs(kept) == macs(small, given.batch[:1])
    assert costs.macs(costs.dense) == macs(given.model, given.batch[:1])
    assert costs.macs(kept) < costs.macs(costs.dense)


def test_expected_groups_of_networks_we_claim() -> None:
    """Nothing that could be cut is lost: the number of groups and streams of known networks."""
    counts = {}
    for name in FAST:
        groups = case(name).graph.groups
        counts[name] = (len(groups), sum(group.is_stream for group in groups))
    assert counts == {
        "resnet18": (12, 4),
        "resnet50": (37, 4),
        "vgg16": (15, 0),
        "mobilenetv3_small_100": (27, 4),
        "mobilenetv2_100": (25, 5),
        "tf_efficientnet_lite0": (24, 5),
        "efficientnet_b0": (40, 5),
        "densenet121": (120, 0),
        "deit_small": (12, 0),
        "deit_tiny": (12, 0),
        # Nine blocks, and the first stage's 16 channels with all that they meet: wider stages add theirs to zeros.
        "cifar_resnet": (10, 1),
    }


class _Biased(nn.Module):
    """Tokens beside position biases that a small network makes of a table, as in Swin V2: once for all samples."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(9, 2))
        self.bias = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 8))
        self.token = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.token(x) + self.bias(self.table)).mean(1))


@pytest.mark.parametrize("num_samples", [1, 2, 5])
def test_what_no_sample_moves_counts_for_each(num_samples: int) -> None:
    """Multiply-accumulates per sample are those of a pass of one sample, however many the example holds."""
    model, x = _Biased().eval(), torch.randn(64, 9, 8)
    by_hand = 9 * (2 * 64 + 64 * 8) + 9 * (8 * 32 + 32 * 8) + 8 * 4
    assert snp.inspect(model, x[:num_samples]).macs == macs(model, x[:1]) == by_hand
    result = snp.prune(model, x.split(num_samples), target_macs=0.6, planner="magnitude", round_to=1, progress=False)
    assert result.plan.macs["dense"] == by_hand
    assert result.plan.macs["pruned"] == macs(result.model, x[:1]) <= 0.6 * by_hand
    assert {len(group.kept) for group in result.plan.groups} != {32, 64}


class _Asking(nn.Module):
    """Learned queries that attend to each other, before they are one for each sample or after, and then to tokens."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.when, self.queries = when, nn.Parameter(torch.randn(1, 5, 8))
        self.own, self.cross = (nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 8))

    def forward(self, x: Tensor) -> Tensor:
        asked = self.queries if self.when != "first" else self.queries.expand(len(x), -1, -1)
        asked = asked + self.own(asked, asked, asked, need_weights=False)[0]
        if self.when == "last":  # one sample's queries beside many samples' keys
            heads = [each.unflatten(-1, (2, 4)).transpose(1, 2) for each in (asked, x, x)]
            met = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        else:
            asked = asked.expand(len(x), -1, -1)
            met = self.cross(asked, x, x, need_weights=False)[0]
        return asked + met + self.mlp(met)


@pytest.mark.parametrize("options", [{"streams": True}, {"structures": ("ffn", "vo", "qk")}], ids=str)
@pytest.mark.parametrize("when", ["first", "then", "last"])
def test_queries_that_are_learned_count_for_each(when: str, options: dict[str, Any]) -> None:
    """Attention among them, too, with its products; and what is repeated for each sample is not counted twice."""
    torch.manual_seed(0)
    model, x = _Asking(when).eval(), torch.randn(20, 6, 8)
    options = {"target_units": 0.5, "round_to": 1, "reconstruct": False, "progress": False, **options}
    for num_samples in (1, 2, 5):
        result = snp.prune(model, x.split(num_samples), ordering="random", cut="uniform", **options)
        assert result.plan.macs == {"dense": macs(model, x[:1]), "pruned": macs(result.model, x[:1])}
