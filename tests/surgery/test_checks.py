"""No scale and no zero weight hides a wrong cut, and no rounding looks like one."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snp
from snp.core.precision import in_double
from snp.graph import analyse
from snp.graph.batches import Batch
from snp.plan.plan import GroupPlan, PruningPlan
from snp.settings import PruneSettings
from snp.surgery.checks import SelfCheckError, self_check
from snp.surgery.recorded import Recording, largest_difference
from snp.surgery.subject import subject_of
from snp.surgery.surgery import cut, masked_weights, with_weights
from snp.surgery.training_mode import training_of
from snp.surgery.trial_cuts import confirm
from tests.graphs import Net, conv


def images(count: int = 2, size: int = 6) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def shuffled(m: Net, x: Tensor) -> Tensor:
    """A third of the channels changes places with the rest: of those that are left, which no analysis sees."""
    y = F.relu(m.a(F.relu(m.stem(x))))
    third = y.shape[1] // 3
    y = torch.cat([y[:, third:], y[:, :third]], dim=1)
    return F.relu(m.b(y))


def shuffling(ending: Callable[[Net, Tensor], Tensor], **layers: nn.Module) -> Net:
    torch.manual_seed(0)
    body = {"stem": conv(3, 8), "a": conv(8, 16, 1), "b": conv(16, 16)}
    return Net(lambda m, x: ending(m, shuffled(m, x)), **body, **layers).eval()


def with_mean(mean: float, scale: float = 1.0) -> Net:
    model = shuffling(lambda m, x: m.head(x.mean((2, 3))), head=nn.Linear(16, 1))
    with torch.no_grad():
        model.head.weight.mul_(scale)
        model.head.bias.fill_(mean)
    return model


def boxes_beside_scores(scale: float) -> Net:
    model = shuffling(lambda m, x: torch.cat([m.box(x), m.score(x)], 1), box=conv(16, 4, 1), score=conv(16, 3))
    with torch.no_grad():
        model.box.bias.copy_(torch.tensor([320.0, 320.0, 600.0, 600.0]))
        model.score.weight.mul_(scale)
    return model


WRONG: dict[str, Callable[[], Net]] = {
    **{f"a mean of {mean:g}": lambda mean=mean: with_mean(mean) for mean in (0.0, 1e3, 1e6)},
    **{f"weights of {scale:g}": lambda scale=scale: with_mean(1.0, scale) for scale in (1e-12, 0.0)},
    **{f"boxes beside scores of {scale:g}": lambda scale=scale: boxes_beside_scores(scale) for scale in (1.0, 1e-6)},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_cut_is_seen_behind_every_scale(name: str) -> None:
    """The shuffled layer is left alone, whatever the outputs look like; the others are cut, and rightly."""
    model = WRONG[name]()
    result = snp.prune(model, [images(8)] * 2, target_units=0.5, ordering="zca", calibration="joint")
    assert {decision.group.name for decision in result.plan.groups} == {"stem", "b"}
    assert "a trial cut failed" in result.plan.frozen["a"]
    assert result.check < 1e-9


@pytest.mark.parametrize("mask", [-1e4, -1e9, torch.finfo(torch.float32).min, -torch.inf])
def test_masks_hide_no_error_of_what_is_not_masked(mask: float) -> None:
    """Outputs that stand for "never" have no part in the spread that the others are held to, and are none in both."""
    generator = torch.Generator().manual_seed(0)
    want, error = torch.randn(2, 64, 8, generator=generator), torch.randn(2, 64, 8, generator=generator)
    masked = torch.rand(want.shape, generator=generator) < 0.3
    right, wrong, unmasked = (
        Recording([values.masked_fill(hidden, mask)], {})
        for values, hidden in ((want, masked), (want + 0.01 * error, masked), (want, masked & (error < 1.5)))
    )
    assert largest_difference(right, right).size == 0.0
    assert largest_difference(right, wrong).size > 0.005
    assert largest_difference(right, unmasked).size > 0.5


def test_large_maps_are_looked_at_in_the_same_positions() -> None:
    """More values than are kept of a layer's input: what is right is cut there, too, and what is wrong is seen."""
    result = snp.inspect(with_mean(0.0), images(1, 370))
    refused = {group.name for group in result.groups if group.frozen}
    assert refused == {"a"}


def test_a_wrong_permutation_of_one_layers_input_is_seen_where_nothing_reads_it_on() -> None:
    """Zero weights behind a wrong cut: outputs are equal, what the layer gets is not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    rows = torch.randn(4, 3)
    plan = PruningPlan((GroupPlan(analyse(model, rows).groups[0], torch.tensor([0, 2, 3])),))
    with torch.no_grad():
        model[2].weight.zero_()
    masked = with_weights(model, masked_weights(model, plan))
    small = cut(masked, plan)
    assert self_check(masked, small, Batch.of(rows), plan) < 1e-9
    with torch.no_grad():
        small[0].weight.copy_(small[0].weight[[0, 2, 1]])
        small[0].bias.copy_(small[0].bias[[0, 2, 1]])
    assert self_check(masked, small, Batch.of(rows)) == 0.0
    with pytest.raises(SelfCheckError, match="the input of 2"):
        self_check(masked, small, Batch.of(rows), plan)


class InSingle(nn.Module):
    """Insists on single precision inside, as norms and softmaxes of language models do."""

    def forward(self, x: Tensor) -> Tensor:
        kind, x = x.dtype, x.to(torch.float32)
        return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + torch.full((1,), 1e-6))).to(kind)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
def test_code_that_insists_on_single_precision_is_computed_in_double(kind: torch.dtype) -> None:
    """Right cuts pass at 1e-6 of the spread, whatever the weights' precision is."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 40), nn.GELU(), nn.Linear(40, 6), InSingle(), nn.Linear(6, 40), nn.ReLU())
    model = model.append(nn.Linear(40, 3)).to(kind).eval()
    rows = torch.randn(5, 6).to(kind)
    groups, refused = confirm(model, analyse(model, rows).groups, Batch.of(rows))
    assert (len(groups), refused) == (2, {})
    with torch.no_grad(), in_double():
        found = model(rows.double())
    with torch.no_grad():
        # The constant inside is rounded to single precision, and so is what is made with it in the copy.
        torch.testing.assert_close(found, model.double()(rows.double()), rtol=1e-4, atol=1e-5)
    assert found.dtype is torch.float64


def test_in_place_work_and_new_tensors_are_double() -> None:
    """What a network writes to inside is what it reads afterwards."""
    x = torch.rand(4, 3)

    def work(x: Tensor) -> Tensor:
        found = torch.zeros(4, 3)
        found[:, 1:] = x[:, 1:]
        return found.add_(x).mul_(torch.full((3,), 1 / 3)).cumsum(0, dtype=torch.float32)

    with in_double():
        found = work(x)
    assert found.dtype is torch.float64
    torch.testing.assert_close(found.float(), work(x))


class Noisy(nn.Module):
    """Random in evaluation: dropout that stays on."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=True)


def test_networks_that_are_random_in_evaluation_are_compared_under_one_seed() -> None:
    """The same noise in both; the caller's generator is left as it was."""
    torch.manual_seed(0)
    model = nn.Sequential(Noisy(), nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    rows, before = torch.randn(64, 3), torch.get_rng_state()
    passed, refused = confirm(model, analyse(model, rows).groups, Batch.of(rows))
    assert (len(passed), refused) == (1, {})
    assert torch.equal(before, torch.get_rng_state())


class _Moody(nn.Module):
    """A network whose training is told to its layers only, or reaches code of its own."""

    def __init__(self, extra: Callable[[Tensor, bool], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout(0.5)
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.extra(self.drop(self.norm(self.first(x))).relu(), self.training))


@pytest.mark.parametrize(
    ("extra", "differs"),
    [
        (lambda x, _: x, False),
        (lambda x, training: x * 2 if training else x, True),
        (lambda x, training: x[:, : 8 if training else 9], True),
        (lambda x, training: x.flip(1 if training else 0), True),
    ],
    ids=["layers only", "another call", "another size", "another dimension"],
)
def test_code_that_only_training_reaches_is_seen(extra: Callable[[Tensor, bool], Tensor], differs: bool) -> None:
    """Normalisation and dropout are told their mode, and count batches; all else that training calls shows."""
    found = training_of(_Moody(extra).eval(), Batch.of(torch.randn(4, 3)))
    assert (found.runs, found.differs) == (True, differs)


class Auxiliary(nn.Module):
    """A head that is there in training only, on hidden units [N, 8 or what is left] and outputs [N, 2]."""

    def __init__(self, head: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.head = nn.Linear(3, 8), nn.Linear(8, 2), head

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        hidden = self.first(x).relu()
        out = self.last(hidden)
        return (out, self.head(hidden, out)) if self.training else (out,)


def chaotic(x: Tensor) -> Tensor:
    """Twice as far apart after each step: rounding is all there is to see after some eighty."""
    y = x.sum(1).sigmoid()
    for _ in range(80):
        y = 3.99 * y * (1 - y)
    return y


@pytest.mark.parametrize(
    ("head", "is_cut"),
    [
        (lambda hidden, out: chaotic(out), True),
        (lambda hidden, out: hidden[:, -1:] * 2, False),
        (lambda hidden, out: out * hidden[:, :1].tanh(), False),
    ],
    ids=["rounding alone", "the last unit", "the first unit beside outputs"],
)
def test_rounding_that_grows_in_training_is_no_wrong_cut(
    head: Callable[[Tensor, Tensor], Tensor], is_cut: bool
) -> None:
    """Where inputs that differ in the last place give other results, nothing can be compared; else a head is seen."""
    torch.manual_seed(0)
    model, rows = Auxiliary(head).eval(), torch.randn(64, 3)
    assert training_of(model, Batch.of(rows)).differs
    passed, refused = confirm(model, analyse(model, rows).groups, Batch.of(rows))
    assert bool(passed) == is_cut
    assert all("in training mode" in reason for reason in refused.values())


class Particular(nn.Linear):
    """Compares dtypes, as recurrent cells do, so that double precision needs double weights."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != self.weight.dtype:
            raise ValueError(f"wants {self.weight.dtype}, got {x.dtype}")
        return super().forward(x)


def test_networks_that_compare_dtypes_are_computed_in_double_all_the_same() -> None:
    """By a copy with double weights."""
    torch.manual_seed(0)
    model, rows = nn.Sequential(Particular(3, 8), nn.ReLU(), nn.Linear(8, 2)).eval(), torch.randn(4, 3)
    (group,) = analyse(model, rows).groups
    plan = PruningPlan((GroupPlan(group, torch.tensor([1, 2, 5])),))
    masked = with_weights(model, masked_weights(model, plan))
    small = cut(masked, plan)
    assert self_check(masked, small, Batch.of(rows), plan) < 1e-12
    with torch.no_grad():
        small[2].bias += 1e-5
    with pytest.raises(SelfCheckError, match="in double precision"):
        self_check(masked, small, Batch.of(rows), plan)


def test_code_that_computes_otherwise_while_it_is_exported_is_refused_before_anything_is_measured() -> None:
    """A product that the analysis never sees: no budget could be held."""

    def head(m: Net, x: Tensor) -> Tensor:
        y = F.relu(m.a(x))
        return m.b(y if torch.compiler.is_exporting() else y @ torch.eye(y.shape[-1]))

    model = Net(head, a=nn.Linear(6, 8), b=nn.Linear(8, 3)).eval()
    with pytest.raises(ValueError, match=r"sees 72 multiply-accumulates per sample, and 136 are counted as it runs"):
        subject_of(model, torch.randn(2, 6), PruneSettings(target_units=0.5))
