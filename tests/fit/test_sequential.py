"""Does fitting layer after layer give back what the dense network computes?"""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from snp.core.sums import ALONE, Sums
from snp.fit.preparation import problem_of
from snp.fit.realise import realise
from snp.graph.batches import Batch
from snp.library import prune
from snp.measure.moments import MomentCollector
from snp.measure.samples import Samples
from snp.pruning import PruneResult, decide
from snp.settings import PruneSettings
from snp.surgery.subject import subject_of
from tests.audit import randomise
from tests.networks import attention, cnn, images, tokens
from tests.sums import DOUBLED, SumsBy

PLAIN: dict[str, Any] = {"ordering": "zca", "target_units": 0.5, "round_to": 1, "ridge": 1e-4}


class Residual(nn.Module):
    """Two stages of residual blocks with a down-sampling shortcut between them: [N, 1, 8, 8] -> [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.first, self.second = ResidualBlock(8, 8), ResidualBlock(8, 8)
        self.third, self.fourth = ResidualBlock(8, 12, 2), ResidualBlock(12, 12)
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stream(x).mean((2, 3)))

    def stream(self, x: Tensor) -> Tensor:
        x = self.second(self.first(self.norm(self.stem(x)).relu()))
        return self.fourth(self.third(x))


class ResidualBlock(nn.Module):
    """Two convolutions beside the stream, and a shortcut where its shape changes."""

    def __init__(self, num_inputs: int, num_outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.one = nn.Conv2d(num_inputs, 12, 3, stride, padding=1, bias=False)
        self.two, self.norm_one = nn.Conv2d(12, num_outputs, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.norm_two, self.act = nn.BatchNorm2d(num_outputs), nn.ReLU(inplace=True)
        self.short = nn.Sequential() if stride == 1 else nn.Conv2d(num_inputs, num_outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_two(self.two(self.act(self.norm_one(self.one(x)))))
        y += self.short(x)
        return self.act(y)


@pytest.fixture(scope="session")
def trained() -> nn.Module:
    """A residual network that reads digits; nobody changes it."""
    torch.manual_seed(0)
    model, (pictures, labels) = Residual(), digits()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for epoch in range(5):
        # A network that has settled: one in motion is fitted well or badly by the last bits of its training.
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - epoch / 5)
        for chosen in torch.randperm(len(pictures)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(pictures[chosen]), labels[chosen]).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        assert float((model(pictures).argmax(1) == labels).float().mean()) > 0.9
    return model.requires_grad_(False)


def digits(count: int = 1200) -> tuple[Tensor, Tensor]:
    found = load_digits()
    return torch.tensor(found.images[:count, None], dtype=torch.float32) / 8 - 1, torch.tensor(found.target[:count])


def error(model: nn.Module, result: PruneResult, inputs: Tensor) -> float:
    """Squared error at the output relative to the output's deviation from its mean."""
    with torch.no_grad():
        wanted, found = model(inputs), result.model.eval()(inputs)
    return float((found - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())


def test_trained_network_climbs_the_ladder(trained: nn.Module) -> None:
    """On the calibration images: deletion errs more than the joint fit, that more than the sequential one."""
    pictures, _ = digits(256)
    batches = list(pictures.split(64))
    deletion = error(trained, prune(trained, batches, reconstruct=False, **PLAIN), pictures)
    channel = error(trained, prune(trained, batches, calibration="joint", conv_gram="channel", **PLAIN), pictures)
    joint = error(trained, prune(trained, batches, calibration="joint", **PLAIN), pictures)
    no_repair = error(trained, prune(trained, batches, repair=False, **PLAIN), pictures)
    sequential = error(trained, prune(trained, batches, **PLAIN), pictures)
    assert sequential < no_repair < joint < channel < deletion
    assert sequential < 0.5 * joint


def test_repair_keeps_the_stream_close(trained: nn.Module) -> None:
    """At the end of the residual stream the error is smaller when every branch makes up for the gathered error."""
    pictures, _ = digits(256)

    def stream_error(**options: Any) -> float:
        small = prune(trained, list(pictures.split(64)), **PLAIN, **options).model
        with torch.no_grad():
            wanted = trained.stream(pictures)
            return float((small.stream(pictures) - wanted).square().sum() / wanted.square().sum())

    assert stream_error() < 0.95 * stream_error(repair=False)


def test_chosen_ridge_serves_other_images(trained: nn.Module) -> None:
    """From few images, the ridge chosen on held-back ones errs no more elsewhere than none, but for chance.

    Beside the dense weights no ridge is needed for what few images do not say; a large one would keep a fit back.
    """
    pictures, _ = digits(1000)
    few, others = list(pictures[:24].split(8)), pictures[500:]
    chosen = error(trained, prune(trained, few, **PLAIN | {"ridge": None}), others)
    assert chosen < 1.01 * error(trained, prune(trained, few, **PLAIN | {"ridge": 0.0}), others)
    assert chosen < error(trained, prune(trained, few, **PLAIN | {"ridge": 1.0}), others)


@pytest.mark.parametrize("calibration", ["sequential", "joint"])
@pytest.mark.parametrize("streams", [False, True])
def test_nothing_cut_changes_nothing(trained: nn.Module, streams: bool, calibration: str) -> None:
    """With all units kept every tensor is the dense one to the last bit."""
    options: dict[str, Any] = {"streams": streams, "calibration": calibration, "batch_norm": "reestimate"}
    result = prune(trained, [digits(32)[0]], target_units=1.0, **options)
    dense = trained.state_dict()
    assert all(torch.equal(value, dense[name]) for name, value in result.model.state_dict().items())


def test_network_given_is_left_alone(trained: nn.Module) -> None:
    """Fitting writes to no tensor of the dense network."""
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    prune(trained, [digits(32)[0]], **PLAIN, batch_norm="reestimate")
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())


def redundant() -> nn.Module:
    """Every inner unit of the network has a copy of one and a half times its size."""
    model = randomise(Residual())
    for block in (model.first, model.second, model.third, model.fourth):
        norm = block.norm_one
        with torch.no_grad():
            norm.running_mean[6:], norm.running_var[6:] = norm.running_mean[:6], norm.running_var[:6]
            block.one.weight[6:] = block.one.weight[:6]
            norm.bias += 1  # no unit is silent on most images: elimination takes next to silent ones for free, too
            norm.weight[6:], norm.bias[6:] = 1.5 * norm.weight[:6], 1.5 * norm.bias[:6]
    return model


@pytest.mark.parametrize("calibration", ["sequential", "joint"])
@pytest.mark.parametrize("conv_gram", ["patch", "channel"])
def test_redundant_units_are_rebuilt_exactly(conv_gram: str, calibration: str) -> None:
    """Cutting all copies changes no output, on images that were not measured either."""
    model, (pictures, _) = redundant(), digits(128)
    options = PLAIN | {"ordering": "output", "ridge": 1e-8, "conv_gram": conv_gram, "calibration": calibration}
    result = prune(model, list(pictures[:64].split(32)), **options)
    assert all(sorted((group.kept % 6).tolist()) == list(range(6)) for group in result.plan.groups)
    with torch.no_grad():
        torch.testing.assert_close(result.model(pictures), model(pictures), rtol=1e-4, atol=1e-4)


class Chain(nn.Module):
    """Three linear layers: [N, 6] -> [N, 4]."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 10), nn.Linear(10, 8), nn.Linear(8, 4, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.three(self.two(self.one(x).relu()).relu())


@pytest.mark.parametrize("intercept", [True, False])
def test_each_layer_is_least_squares_on_its_real_inputs(intercept: bool) -> None:
    """The last layer's weights are torch's own fit of the dense outputs on what the small network feeds it."""
    model, rows = randomise(Chain()), torch.randn(400, 6)
    small = prune(model, list(rows.split(100)), **PLAIN | {"ridge": 0.0, "intercept": intercept}).model
    with torch.no_grad():
        inputs = small.two(small.one(rows).relu()).relu().double()
        wanted = model(rows).double() - (0 if intercept else model.three.bias.double())
    design = torch.cat([inputs, torch.ones(400, 1).double()], 1) if intercept else inputs
    best = torch.linalg.lstsq(design, wanted).solution.T
    torch.testing.assert_close(small.three.weight.double(), best[:, :4], rtol=1e-3, atol=1e-3)
    bias = best[:, 4] if intercept else model.three.bias.double()
    torch.testing.assert_close(small.three.bias.double(), bias, rtol=1e-3, atol=1e-3)


def test_layer_without_bias_stays_without() -> None:
    """No offset is fitted where there is nothing to put it into."""
    model = randomise(Chain(bias=False))
    small = prune(model, [torch.randn(100, 6)], **PLAIN).model
    assert small.three.bias is None


class Twice(nn.Module):
    """One layer applied to two different inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.twice, self.head = nn.Linear(6, 12), nn.Linear(12, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.up(x).relu())
        return self.head(self.twice(self.up(x).relu()) + x)


def test_weight_read_twice_has_the_joint_fit() -> None:
    """A layer with two sets of inputs takes the fit on the dense network's activations at both."""
    model, rows = randomise(Twice()), torch.randn(128, 6)
    sequential = prune(model, [rows], **PLAIN)
    joint = prune(model, [rows], calibration="joint", **PLAIN)
    assert sequential.model.twice.weight.shape == (6, 6)
    assert torch.equal(sequential.model.twice.weight, joint.model.twice.weight)
    assert not torch.equal(sequential.model.head.weight, joint.model.head.weight)


class ComputedBias(nn.Module):
    """A layer whose bias is put together on the way, as some attention layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.last = nn.Linear(6, 12), nn.Linear(12, 6), nn.Linear(6, 6, bias=False)
        self.some, self.others = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.up(x).relu())
        return F.linear(x, self.last.weight, torch.cat((self.some, self.others)) * 10)


def test_computed_bias_is_not_fitted_into_the_weights() -> None:
    """What is added anyway is no part of the weight's target."""
    model, rows = randomise(ComputedBias()), torch.randn(256, 6)
    with_refit = error(model, prune(model, [rows], **PLAIN), rows)
    assert with_refit < 1.01 * error(model, prune(model, [rows], refit_all=False, **PLAIN), rows)


class SharedNorm(nn.Module):
    """Two layers behind one normalisation, with activations whose mean a cut moves."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(6)
        self.one, self.two = nn.Conv2d(12, 6, 1, bias=False), nn.Conv2d(12, 6, 1, bias=False)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head(torch.cat([self.norm(self.one(x)), self.norm(self.two(x))], 1).relu().mean((2, 3)))


def test_statistics_do_not_depend_on_how_samples_are_dealt(trained: nn.Module) -> None:
    """Layer by layer over all samples at once: batches are none of the method's business."""
    pictures, _ = digits(128)
    options: dict[str, Any] = {"calibration": "joint", "batch_norm": "reestimate", **PLAIN}
    found = [prune(trained, list(pictures.split(size)), **options).model.state_dict() for size in (16, 50, 128)]
    for other in found[1:]:
        for name, value in found[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5)


def test_few_positions_say_nothing_of_a_variance() -> None:
    """Seven samples of vectors: the dense network's statistics stay; of a hundred they do not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).eval()
    for count, stays in ((7, True), (100, False)):
        inputs = 3 * torch.randn(count, 6) + 1
        small = prune(model, [inputs], calibration="joint", batch_norm="reestimate", **PLAIN | {"ignore": ("4",)}).model
        assert torch.equal(small[3].running_var, model[3].running_var) == stays


@pytest.mark.parametrize("batch_norm", ["keep", "reestimate"])
def test_statistics_that_two_layers_share_are_left_alone(batch_norm: str) -> None:
    """Neither layer's offset may move what the other one is normalised with."""
    model = randomise(SharedNorm())
    small = prune(model, [images(64) + 1], batch_norm=batch_norm, **PLAIN).model
    assert bool(torch.isin(small.norm.running_mean, model.norm.running_mean).all())
    assert bool(torch.isin(small.norm.running_var, model.norm.running_var).all())


@pytest.mark.parametrize(
    "options", [{}, {"calibration": "joint"}, {"preset": "quick"}, {"reconstruct": False}], ids=str
)
def test_reestimated_statistics_are_those_of_the_small_network(trained: nn.Module, options: dict[str, Any]) -> None:
    """Mean and variance of what really reaches every normalisation layer."""
    pictures, _ = digits(128)
    small = prune(trained, list(pictures.split(32)), batch_norm="reestimate", **options, **PLAIN).model
    seen: dict[str, Tensor] = {}
    norms = {name: module for name, module in small.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for name, module in norms.items():
        module.register_forward_pre_hook(lambda module, args, name=name: seen.update({name: args[0]}))
    with torch.no_grad():
        small(pictures)
    moved = [name for name in norms if not torch.equal(norms[name].running_var, _kept_part(trained, small, name))]
    assert "fourth.norm_two" in moved
    for name in moved:
        rows = seen[name].movedim(1, 0).flatten(1)
        torch.testing.assert_close(norms[name].running_mean, rows.mean(1), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(norms[name].running_var, rows.var(1, correction=0), rtol=1e-3, atol=1e-4)


def _kept_part(dense: nn.Module, small: nn.Module, name: str) -> Tensor | None:
    """Dense variances where no unit of the layer was cut, else those that are found again in the small network."""
    before, after = dense.get_submodule(name).running_var, small.get_submodule(name).running_var
    return before if len(before) == len(after) else before[torch.isin(before, after)]


SWITCHES: list[dict[str, Any]] = [
    {"intercept": False},
    {"repair": False},
    {"rectify": False},
    {"refit_all": False},
    {"batch_norm": "reestimate"},
    {"conv_gram": "channel"},
    {"calibration": "joint"},
    {"reconstruct": False},
    {"ridge": 0.1},
    {"ridge": None},
    {"ridge": None, "softmax": False},
]


@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_every_switch_changes_the_result(trained: nn.Module, switch: dict[str, Any]) -> None:
    """No option is without effect."""
    pictures, _ = digits(64)
    options = PLAIN | {"ordering": "variance"}
    usual = prune(trained, list(pictures.split(16)), **options).model(pictures)
    assert not torch.allclose(prune(trained, list(pictures.split(16)), **options | switch).model(pictures), usual)


CHOICES = {
    "conv_gram": ("patch", "channel"),
    "intercept": (True, False),
    "repair": (True, False),
    "rectify": (True, False),
    "refit_all": (True, False),
    "batch_norm": ("keep", "reestimate"),
}


COMBINATIONS = [dict(zip(CHOICES, values, strict=True)) for values in itertools.product(*CHOICES.values())]


@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda options: "-".join(map(str, options.values())))
def test_small_network_is_the_masked_one_whatever_is_asked_for(options: dict[str, Any]) -> None:
    """Every combination of switches passes the check that ends each prune, on a network with everything in it."""
    model, batch = cnn(), images(24)
    more = {"ordering": "variance", "streams": True, "ridge": 1e-4 if options["refit_all"] else None}
    result = prune(model, [batch], target_units=0.6, round_to=1, **more, **options)
    assert result.check < 1e-5
    assert error(model, result, batch) < 1.0


@pytest.mark.parametrize("options", [{}, {"repair": False}, {"intercept": False}, {"refit_all": False}], ids=str)
def test_transformers_beat_deletion(options: dict[str, Any]) -> None:
    """Hidden units of transformer blocks are fitted far better than deleted, with every switch."""
    model, batch = attention(), tokens(96)
    fitted = error(model, prune(model, [batch], **PLAIN, **options), batch)
    assert fitted < 0.5 * error(model, prune(model, [batch], reconstruct=False, **PLAIN), batch)


def fits(model: nn.Module, batches: list[Tensor], sums: Sums, **options: Any) -> nn.Module:
    """The small network with a hand in what is reduced."""
    settings = PruneSettings(**PLAIN | options)
    subject = subject_of(model, batches[0][:2], settings)
    with torch.no_grad(), MomentCollector(model, subject.readers) as collector:
        model(images(24))  # the plan is the same whatever share of the images this process has
    problem = problem_of(subject, collector.moments)
    return realise(
        subject, problem, decide(subject, problem, settings).plan, settings, Samples.of(Batch.all(batches)), sums
    ).model


@pytest.mark.parametrize("ridge", [1e-4, None])
def test_equal_shares_on_two_processes_are_fitted_as_one(ridge: float | None) -> None:
    """When every sum is doubled, as by a second process with the same images, the weights stay.

    Few images are cross-validated by one process alone: with a ridge of its own choice it gets more.
    """
    options, count = {"ridge": ridge, "batch_norm": "reestimate"}, 24 if ridge else 128
    alone = fits(cnn(), [images(count)], ALONE, **options)
    doubled = fits(cnn(), [images(count)], DOUBLED, **options)
    for have, want in zip(doubled.state_dict().values(), alone.state_dict().values(), strict=True):
        torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ridge", [1e-4, None])
def test_processes_reduce_the_same_tensors_however_few_samples_they_have(ridge: float | None) -> None:
    """A process with too few images to hold any back must not leave the others waiting."""
    calls: dict[int, list[torch.Size]] = {}
    for count in (2, 3, 24):
        seen = calls.setdefault(count, [])
        options = {"ridge": ridge, "batch_norm": "reestimate"}
        # Sums double, as with a second process.
        noted = SumsBy(lambda tensor, seen=seen: (seen.append(tensor.shape), 2 * tensor)[1])
        fits(cnn(), [images(count)], noted, **options)
    assert calls[2] == calls[3] == calls[24]
    assert calls[24]


def test_memory_limits_the_samples() -> None:
    """With next to no memory one batch is used and the result still stands."""
    model, batch = cnn(), images(48)
    result = prune(model, [batch], memory_gib=1e-9, **PLAIN)
    assert result.check < 1e-5
    with torch.no_grad():
        assert not torch.equal(result.model(batch), prune(model, [batch], **PLAIN).model(batch))


class Switched(Chain):
    """Keyword arguments, one of them no tensor."""

    def forward(self, x: Tensor, twice: bool = False, extra: Tensor | None = None) -> Tensor:
        return super().forward(x * 2 if twice else x)


def test_mappings_with_switches_are_fitted() -> None:
    """Batches of keyword arguments that are not all tensors go through the whole prune."""
    model, rows = randomise(Switched()), torch.randn(64, 6)
    batches = [{"x": part, "twice": True, "extra": None} for part in rows.split(16)]
    small = prune(model, batches, **PLAIN).model
    plain = prune(model, [2 * part for part in rows.split(16)], **PLAIN).model
    torch.testing.assert_close(small.three.weight, plain.three.weight, rtol=1e-4, atol=1e-5)
