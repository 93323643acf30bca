"""Is the cut network what the plan says, and does the self-check notice when it is not?"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snp.graph import analyse
from snp.graph.batches import Batch
from snp.graph.units import Slice, UnitGroup
from snp.plan.plan import GroupPlan, PruningPlan
from snp.surgery.checks import SelfCheckError, self_check
from snp.surgery.surgery import cut, masked_weights, with_weights
from snp.surgery.trial_cuts import confirm
from tests.audit import outputs, randomise

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return randomise(
        nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, groups=width), nn.Conv2d(2 * width, 6, 1), nn.Flatten(),
            nn.Linear(216, 4),
        )
    )  # fmt: skip


def plan_for(model: nn.Module, keep: Callable[[UnitGroup], Tensor]) -> PruningPlan:
    groups = analyse(model, IMAGES).groups
    return PruningPlan(tuple(GroupPlan(group, keep(group)) for group in groups))


def test_identity_plan_leaves_every_bit() -> None:
    """Keeping all units gives the same state and the same outputs to the last bit."""
    model = network()
    small = cut(model, plan_for(model, lambda group: torch.arange(group.num_units)))
    assert torch.equal(outputs(small, IMAGES), outputs(model, IMAGES))
    assert all(torch.equal(value, small.state_dict()[name]) for name, value in model.state_dict().items())
    assert masked_weights(model, plan_for(model, lambda group: torch.arange(group.num_units))) == {}


def test_kept_slices_are_the_dense_ones() -> None:
    """Nothing but slices: every tensor of the small network is a selection of the dense one's entries."""
    model = network()
    small = cut(model, plan_for(model, lambda group: torch.tensor([1, 4])))
    assert torch.equal(small[0].weight, model[0].weight[[1, 4]])
    assert torch.equal(small[1].running_var, model[1].running_var[[1, 4]])
    assert torch.equal(small[3].weight, model[3].weight[[2, 3, 8, 9]])
    assert torch.equal(small[4].weight, model[4].weight[[1, 4]][:, [2, 3, 8, 9]])
    columns = [unit * 36 + position for unit in (1, 4) for position in range(36)]
    assert torch.equal(small[6].weight, model[6].weight[:, columns])


def test_sizes_that_modules_keep_follow_their_tensors() -> None:
    """What a module says of itself is what it holds."""
    small = cut(network(), plan_for(network(), lambda group: torch.tensor([1, 4, 5])))
    assert (small[0].in_channels, small[0].out_channels) == (3, 3)
    assert small[1].num_features == 3
    assert (small[3].in_channels, small[3].out_channels, small[3].groups) == (3, 6, 3)
    assert (small[6].in_features, small[6].out_features) == (108, 4)


def test_norm_without_parameters_says_its_size() -> None:
    """A norm that holds only statistics follows, too."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False), nn.Flatten(), nn.Linear(288, 4)).eval()
    small = cut(model, plan_for(model, lambda group: torch.tensor([1, 4, 5])))
    assert small[1].running_mean.shape == (3,)
    assert small[1].num_features == 3


def test_dense_model_is_not_written_to_nor_shared() -> None:
    """Cutting copies: the dense network keeps its values, and training the small one does not touch them."""
    model = network()
    before = copy.deepcopy(model.state_dict())
    small = cut(model, plan_for(model, lambda group: torch.tensor([0, 2])))
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_small_model_can_be_trained() -> None:
    """Parameters stay parameters, frozen ones stay frozen, and gradients reach all others."""
    model = network()
    model[0].bias.requires_grad_(False)
    small = cut(model, plan_for(model, lambda group: torch.tensor([0, 2])))
    assert not small[0].bias.requires_grad
    small.train()(IMAGES).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters() if p.requires_grad)
    assert list(small.state_dict()) == list(model.state_dict())


def test_tied_weights_stay_tied() -> None:
    """Two names of one tensor are still one tensor after the cut."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 4)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.first(x).relu() + self.second(x).sigmoid())

    model, rows = Tied().eval(), torch.randn(2, 6)
    (group,) = analyse(model, rows).groups
    plan = PruningPlan((GroupPlan(group, torch.tensor([0, 3, 4])),))
    masked = with_weights(model, masked_weights(model, plan))
    small = cut(masked, plan)
    assert small.first.weight is small.second.weight
    assert small.second.weight.shape == (3, 6)
    assert self_check(masked, small, Batch.of(rows)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_pass_the_self_check(dtype: torch.dtype) -> None:
    """The cut keeps the dtype, and masking is exact enough in any of them."""
    model = network().to(dtype)
    plan = plan_for(network(), lambda group: torch.arange(0, group.num_units, 2))
    masked = with_weights(model, masked_weights(model, plan))
    small = cut(masked, plan)
    assert small[0].weight.dtype == dtype
    self_check(masked, small, Batch.of(IMAGES.to(dtype)))


def test_plan_for_another_architecture_is_refused() -> None:
    """A tensor that the model does not have is named."""
    plan = plan_for(network(), lambda group: torch.tensor([0]))
    with pytest.raises(ValueError, match="does not have"):
        cut(nn.ModuleDict({"other": nn.Linear(3, 3)}), plan)


def test_plan_for_a_wider_model_is_refused() -> None:
    """Indices beyond a tensor's end are noticed."""
    plan = plan_for(network(16), lambda group: torch.tensor([0]))
    with pytest.raises(ValueError, match="another model"):
        cut(network(8), plan)


def test_plan_for_a_narrower_model_is_refused() -> None:
    """Indices that fit by chance do not make the plan fit: the dense number of parameters is compared."""
    model = network(8)
    dense = sum(parameter.numel() for parameter in model.parameters())
    groups = plan_for(model, lambda group: torch.tensor([0, 1])).groups
    plan = PruningPlan(groups, params={"dense": dense, "pruned": 0})
    cut(model, plan)
    with pytest.raises(ValueError, match=r"made for a model of 1,\d\d\d parameters"):
        cut(network(16), plan)


class Outputs(nn.Module):
    """A network that always says the same."""

    def __init__(self, *values: Any) -> None:
        super().__init__()
        self.values = values

    def forward(self, x: Tensor) -> Any:
        return self.values if len(self.values) > 1 else self.values[0]


NAN, INF = float("nan"), float("inf")


def test_self_check_measures_the_largest_difference_beside_its_channels_spread() -> None:
    """A mean of 1,000, and a neighbour of that size, change nothing; neither does the order of outputs."""
    values = torch.tensor([[1.0, 1000.0], [3.0, 1002.0]])
    moved = values + torch.tensor([[0.0, 0.0], [0.0, 1e-3]])
    assert self_check(Outputs(values), Outputs(moved), Batch.of(IMAGES), tolerance=0.1) == pytest.approx(1e-3, rel=0.1)
    both = self_check(Outputs(torch.zeros(2), values), Outputs(torch.zeros(2), moved), Batch.of(IMAGES), tolerance=0.1)
    assert both == pytest.approx(1e-3, rel=0.1)
    for maps in (values[:, :, None], values[:, None].expand(2, 3, 2)):
        far = maps + 1e-3 * (maps == 1002.0)
        assert self_check(Outputs(maps), Outputs(far), Batch.of(IMAGES), tolerance=0.1) == pytest.approx(1e-3, rel=0.1)
        with pytest.raises(SelfCheckError, match="output 0"):
            self_check(Outputs(maps), Outputs(far), Batch.of(IMAGES))


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.1])),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, NAN])),
        (torch.tensor([1.0, 2.0]), torch.tensor([NAN, NAN])),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, INF])),
        (torch.tensor([1.0, NAN]), torch.tensor([1.0, 2.0])),
        (torch.tensor([INF, 2.0]), torch.tensor([-INF, 2.0])),
        (torch.tensor([INF, 2.0]), torch.tensor([NAN, 2.0])),
        (torch.tensor([0.0, 0.0]), torch.tensor([0.0, 0.1])),
        (torch.zeros(2, 3), torch.zeros(2, 2)),
    ],
)
def test_self_check_refuses_what_differs(wanted: Tensor, found: Tensor) -> None:
    """Other values, other shapes, and values that are not finite in one of the two only."""
    with pytest.raises(SelfCheckError):
        self_check(Outputs(wanted), Outputs(found), Batch.of(IMAGES))


def test_self_check_accepts_the_same_infinities() -> None:
    """Masked logits are minus infinity in both."""
    same = torch.tensor([1.0, -INF, 2.0])
    assert self_check(Outputs(same), Outputs(same.clone()), Batch.of(IMAGES)) == 0.0


def test_self_check_refuses_another_number_of_outputs() -> None:
    """An output that is gone is a difference."""
    with pytest.raises(SelfCheckError, match="number of outputs"):
        self_check(Outputs(torch.ones(1), torch.ones(1)), Outputs(torch.ones(1)), Batch.of(IMAGES))


class Chaotic(nn.Module):
    """Doubles any error 25 times: the logistic map behind two layers, of which one can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 1000), nn.Linear(1000, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.first(x).relu()).sigmoid()
        for _ in range(25):
            x = 4 * x * (1 - x)
        return x


@pytest.mark.parametrize("as_mapping", [False, True])
def test_rounding_that_grows_is_told_from_a_wrong_cut(as_mapping: bool) -> None:
    """Where rounding differs by more than is allowed, double precision decides: a right cut passes, a wrong one not."""
    torch.manual_seed(0)
    model, rows = Chaotic().eval(), torch.randn(16, 6)
    batch: Any = {"x": rows} if as_mapping else rows
    plan = PruningPlan((GroupPlan(analyse(model, rows).groups[0], torch.arange(0, 1000, 3)),))
    masked = with_weights(model, masked_weights(model, plan))
    small = cut(masked, plan)
    with torch.no_grad():
        assert float((masked(rows) - small(rows)).abs().max()) > 1e-3
    assert self_check(masked, small, Batch.of(batch)) < 1e-6
    with torch.no_grad():
        small.head.bias += 1e-3
    with pytest.raises(SelfCheckError, match="in double precision"):
        self_check(masked, small, Batch.of(batch))


def test_confirm_finds_the_wrong_group_among_right_ones() -> None:
    """A group with a forgotten reader is refused by name; the others pass."""
    model = network()
    good = analyse(model, IMAGES).groups
    assert len(good) == 2
    bad = UnitGroup("bad", 8, (Slice("0.weight", 0, torch.arange(8)[:, None]),), (), ())
    passed, refused = confirm(model, [good[1], bad], Batch.of(IMAGES))
    assert [group.name for group in passed] == [good[1].name]
    assert list(refused) == ["bad"]
    assert "does not run" in refused["bad"]


def test_confirm_refuses_values_that_differ_although_shapes_fit() -> None:
    """A cut of the wrong columns runs, and is noticed by what it computes."""
    model = network()
    first, second = analyse(model, IMAGES).groups
    wrong = UnitGroup(
        "wrong", 6, second.producers, (Slice("6.weight", 1, second.consumers[0].index.flip(0)),), second.others
    )
    passed, refused = confirm(model, [first, wrong], Batch.of(IMAGES))
    assert [group.name for group in passed] == [first.name]
    assert "differs" in refused["wrong"]


def test_confirm_of_nothing_is_nothing() -> None:
    """No groups, no trial."""
    assert confirm(network(), [], Batch.of(IMAGES)) == ((), {})


def test_weights_given_in_another_order_in_memory_lie_as_the_models_own() -> None:
    """Else the network in memory and the one read from disk differ by rounding (a weight fitted as its transpose)."""
    model = nn.Linear(6, 16)
    given = torch.randn(6, 16).T
    changed = with_weights(model, {"weight": given}, share=True)
    assert torch.equal(changed.weight, given)
    assert changed.weight.stride() == model.weight.stride() == (6, 1)
    assert changed.bias is model.bias
