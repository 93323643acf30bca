"""Are operators cut through that keep units apart, and frozen that mix them?  One rule per kind of operator."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snp.graph import analyse
from snp.graph.batches import Batch
from snp.surgery.trial_cuts import confirm
from tests.audit import randomise
from tests.graphs import IMAGES, Net, analysed, conv, cut_anyhow, summary

Map = Callable[[Tensor], Tensor]


def network(function: Map, reads: int = 6) -> Net:
    """A function of six channels between two convolutions."""
    return Net(
        lambda m, x: m.head(F.gelu(m.last(function(m.first(x)))).flatten(2).mean(2)),
        first=conv(3, 6), last=nn.Conv2d(reads, 5, 1), head=nn.Linear(5, 4),
    )  # fmt: skip


def chain(*functions: Map) -> Map:
    def apply(x: Tensor) -> Tensor:
        for function in functions:
            x = x + 0.1 * function(x).to(x.dtype)
        return x

    return apply


def grid(x: Tensor) -> Tensor:
    ticks = torch.linspace(-0.9, 0.9, x.shape[-1])
    places = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1)
    return F.grid_sample(x, places.expand(x.shape[0], -1, -1, -1), align_corners=False)


def first_row_zero(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, 0] = 0
    return x


def unpooled(x: Tensor) -> Tensor:
    return F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)


KEPT_APART: dict[str, Map] = {
    "activations": chain(
        F.hardshrink,
        F.softshrink,
        F.tanhshrink,
        F.softsign,
        F.celu,
        F.elu,
        F.selu,
        F.mish,
        F.logsigmoid,
        F.hardswish,
        F.hardsigmoid,
        F.hardtanh,
        F.relu6,
        F.leaky_relu,
        F.softplus,
        lambda x: F.threshold(x, 0.1, 0.0),
    ),
    "arithmetic": chain(
        torch.sign,
        torch.frac,
        torch.floor,
        torch.erf,
        torch.atan,
        torch.expm1,
        torch.sinc,
        torch.nan_to_num,
        lambda x: x % 1.0,
        lambda x: torch.fmod(x, 0.7),
        lambda x: torch.copysign(x, x - 0.2),
        lambda x: torch.atan2(x, x + 1),
        lambda x: torch.clamp(x, -x.abs(), x.abs() / 2),
        lambda x: x + (x.round() - x).detach(),
        lambda x: torch.hypot(x, 2 * x),
    ),
    "comparisons": chain(
        lambda x: x > 0.2,
        lambda x: torch.isfinite(x) & ~(x <= 0),
        lambda x: torch.where(x > 0.5, x, x * 0.1),
        lambda x: x.masked_fill(x > 1, 0.0),
        lambda x: x.clone().masked_fill_(x > 1, 0.5),
        lambda x: torch.fmax(x, -x),
        lambda x: x.eq(0).logical_not(),
        lambda x: (x > x.mean((2, 3), keepdim=True)).to(x.dtype),
    ),
    "values that do not matter": chain(
        torch.ones_like,
        lambda x: torch.full_like(x, 2.0),
        lambda x: x.new_zeros(x.shape),
        lambda x: x.new_ones(1, 1, 8, 8),
        lambda x: x - torch.zeros(8, 8),
        lambda x: torch.stack([x, torch.zeros_like(x)]).mean(0),
    ),
    "statistics over space": chain(
        lambda x: x.amax((2, 3), keepdim=True),
        lambda x: x.std((2, 3), keepdim=True),
        lambda x: x.logsumexp((2, 3), keepdim=True),
        lambda x: torch.var_mean(x, (2, 3), keepdim=True)[0],
        lambda x: x.flatten(2).median(-1).values[..., None, None],
        lambda x: x.flatten(2).kthvalue(5, -1).values[..., None, None],
        lambda x: x.prod(2, keepdim=True),
        lambda x: x.max(3, keepdim=True).values,
        lambda x: x.norm(dim=(2, 3), keepdim=True),
        lambda x: (x > 0).any(2, keepdim=True),
    ),
    "along space": chain(
        lambda x: x.cumsum(2),
        lambda x: x.flatten(2).softmax(-1).view(x.shape),
        lambda x: x.flatten(2).sort(-1).values.view(x.shape),
        lambda x: x.flatten(2).topk(64, -1).values.view(x.shape),
        lambda x: torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[2:]),
        lambda x: torch.fft.fft2(x).abs(),
        lambda x: x.cummax(3).values,
        lambda x: torch.view_as_real(torch.fft.fft(x)).sum(-1),
        lambda x: x[:, :, torch.tensor([0, 2, 1, 3, 4, 5, 7, 6])],
        lambda x: x.index_select(3, torch.arange(7, -1, -1)),
    ),
    "resampling": chain(
        lambda x: F.interpolate(F.adaptive_avg_pool2d(x, 3), (8, 8), mode="nearest-exact"),
        grid,
        unpooled,
        lambda x: F.interpolate(F.adaptive_max_pool2d(x, 5), (8, 8), mode="bilinear", antialias=True),
        lambda x: F.interpolate(F.interpolate(x, (5, 5), mode="area"), (8, 8), mode="bicubic"),
        lambda x: F.interpolate(x[:, :, None], (2, 8, 8), mode="trilinear").mean(2),
        lambda x: F.lp_pool2d(x.abs(), 2, 3, 1).mean((2, 3), keepdim=True),
        lambda x: F.pad(x, (1, 1, 1, 1), mode="circular")[:, :, 1:-1, 1:-1],
        lambda x: F.pad(x[:, :, None], (1,) * 6, mode="replicate")[:, :, 0, 1:-1, 1:-1],
    ),
    "norms and patches": chain(
        F.instance_norm,
        lambda x: F.fold(F.unfold(x, 3, padding=1), x.shape[2:], 3, padding=1),
        first_row_zero,
        lambda x: F.normalize(x, dim=2),
        lambda x: x.unfold(3, 3, 1).mean((3, 4))[..., None],
        lambda x: F.dropout2d(x, 0.1, False),
    ),
}


@pytest.mark.parametrize("name", KEPT_APART)
def test_units_stay_apart(name: str) -> None:
    """Six units before, five behind; audited, tried, and cut at random."""
    assert summary(cut_anyhow(network(KEPT_APART[name]))) == {"first": 6, "last": 5}


def test_halves_of_a_gated_unit_go_together() -> None:
    """nn.GLU: value and gate of one unit."""
    graph = cut_anyhow(network(lambda x: F.glu(x, 1), reads=3))
    assert summary(graph) == {"first": 3, "last": 5}
    assert graph.groups[0].producers[0].index.tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize("affine", [False, True])
def test_instance_norm(affine: bool) -> None:
    """The module's parameters and statistics go along."""
    model = Net(
        lambda m, x: m.head(F.gelu(m.norm(m.first(x))).mean((2, 3))),
        first=conv(3, 6), norm=nn.InstanceNorm2d(6, affine=affine, track_running_stats=affine), head=nn.Linear(6, 4),
    )  # fmt: skip
    assert summary(cut_anyhow(model)) == {"first": 6}


def shuffled(x: Tensor) -> Tensor:
    number, channels, height, width = x.shape
    return x.view(number, 2, channels // 2, height, width).transpose(1, 2).reshape(x.shape)


def interleaved(x: Tensor) -> Tensor:
    return torch.stack([x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]], dim=2).flatten(1, 2)


@pytest.mark.parametrize("function", [shuffled, interleaved])
def test_shuffles_written_by_hand(function: Map) -> None:
    """Channels at the same place of every group go together: otherwise others would come out in their places."""
    graph = cut_anyhow(network(function))
    assert graph.groups[0].producers[0].index.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert graph.groups[0].consumers[0].index.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_dimensions_divided_and_joined_in_their_order_tie_nothing() -> None:
    """As around attention heads: the units are where they were."""
    model = network(lambda x: F.gelu(x.unflatten(1, (2, -1)).transpose(1, 2)).transpose(1, 2).flatten(1, 2))
    assert summary(analysed(model)) == {"first": 6, "last": 5}


MIXED: dict[str, Map] = {
    "softmax over channels": lambda x: x.softmax(1),
    "sum of ones over channels": lambda x: x / torch.ones_like(x).sum(1, keepdim=True),
    "norm over channels": lambda x: F.normalize(x, dim=1),
    "sorted channels": lambda x: x.sort(1).values,
    "sums along channels": lambda x: x.cumsum(1),
    "transform over channels": lambda x: torch.fft.fft(x, dim=1).abs(),
    "drawn at random": lambda x: x + 0 * torch.rand_like(x),
    "index among channels": lambda x: x + x.argmax(1, keepdim=True),
    "triangle over channels": lambda x: x.movedim(1, -1).tril().movedim(-1, 1),
    "written into what was empty": lambda x: torch.zeros_like(x[:, :1].expand(x.shape)).copy_(x),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_units_are_frozen(name: str) -> None:
    """Where the value of one unit depends on which others are there, none of them goes."""
    graph = analysed(network(MIXED[name]))
    assert "first" not in summary(graph)
    assert graph.frozen["first.weight"]


@pytest.mark.parametrize(
    ("function", "frozen"),
    [
        (lambda x: x * x[:, :1], [0]),
        (lambda x: x * x[0, 2, 0, 0], [2]),
        (lambda x: x + F.grid_sample(x, x[:, :2].movedim(1, -1), align_corners=False), [0, 1]),
    ],
    ids=["one channel for all", "one value for all", "places from channels"],
)
def test_units_that_all_others_meet_stay(function: Map, frozen: list[int]) -> None:
    """The others can go: what they meet is still there, in its place."""
    model = network(function)
    graph = analyse(randomise(model), Batch.of(IMAGES))
    rows = graph.groups[0].producers[0].index.flatten().tolist()
    assert rows == [unit for unit in range(6) if unit not in frozen]


def test_numbers_of_channels_in_the_code_are_left_to_the_trial() -> None:
    """A graph holds the number, not where it came from; the cut network shows that it counts."""
    model = randomise(network(lambda x: x / x.new_ones(x.shape[1]).sum()))
    passed, refused = confirm(model, analyse(model, Batch.of(IMAGES)).groups, Batch.of(IMAGES))
    assert [group.name for group in passed] == ["last"]
    assert "trial cut failed" in refused["first"]


def test_zeros_that_the_code_puts_among_channels() -> None:
    """Columns that read them belong to no unit; those beside them can go."""

    def forward(m: Any, x: Tensor) -> Tensor:
        y = F.gelu(m.first(x))
        return m.last(torch.cat([y, y.new_zeros(y.shape[0], 2, *y.shape[2:])], 1))

    graph = cut_anyhow(Net(forward, first=conv(3, 6), last=conv(8, 4)))
    assert graph.groups[0].consumers[0].index.flatten().tolist() == list(range(6))
