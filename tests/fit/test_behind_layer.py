"""Is what follows a layer recognised, and does the layer make up exactly for what a stream is missing?"""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from snp.fit.behind_layer import Tail, tail_of
from snp.fit.two_networks import TwoNetworks
from snp.graph.batches import Batch
from tests.audit import randomise


class Branch(nn.Module):
    """A stream of six channels with something beside it: [N, 6, 4, 4] -> [N, 6, 4, 4], or [N, 5, 6] for tokens."""

    def __init__(self, function: Callable[..., Tensor], is_linear: bool = False, **norm: bool) -> None:
        super().__init__()
        self.before = nn.Linear(6, 6) if is_linear else nn.Conv2d(6, 6, 1)
        self.layer = nn.Linear(6, 6) if is_linear else nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.gamma = nn.BatchNorm2d(6, **norm), nn.Parameter(torch.ones(6))
        self.drop, self.down = nn.Dropout(0.5), nn.Conv2d(6, 6, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, self.before(x))


def data(model: Branch) -> list[Batch]:
    shape = (4, 5, 6) if isinstance(model.layer, nn.Linear) else (4, 6, 4, 4)
    return Batch.all(torch.randn(shape, generator=torch.Generator().manual_seed(3)).split(2))


def at_layer(model: Branch, act: Callable[[TwoNetworks, fx.Node], None]) -> TwoNetworks:
    """Run with the layer in front changed; ``act`` comes when the layer under test is about to be computed."""

    def visit(networks: TwoNetworks, node: fx.Node) -> None:
        name = networks.name_of(node.args[1]) if len(node.args) > 1 else None
        if name == "before.weight":
            networks.change(name, networks.tensors[name] * 0.7)
        if name == "layer.weight":
            act(networks, node)

    networks = TwoNetworks(randomise(model), data(model), visit)
    networks.run()
    return networks


def tail_in(model: Branch) -> Tail | None:
    found: list[Tail | None] = []
    at_layer(model, lambda networks, node: found.append(tail_of(networks, node, repair=True, rectify=False)))
    return found[0]


def statistics_scale(model: Branch) -> Tensor:
    scale = (model.norm.running_var + model.norm.eps).rsqrt()
    return scale * model.norm.weight.detach() if model.norm.affine else scale


ONES = torch.ones(6)
CHAINS: dict[str, tuple[Branch, Callable[[Branch], Tensor]]] = {
    "plain": (Branch(lambda m, x: x + m.layer(x)), lambda m: ONES),
    "branch first": (Branch(lambda m, x: m.layer(x) + x), lambda m: ONES),
    "in place": (Branch(lambda m, x: m.layer(x).add_(x)), lambda m: ONES),
    "batch norm": (Branch(lambda m, x: x + m.norm(m.layer(x))), statistics_scale),
    "batch norm without affine": (Branch(lambda m, x: x + m.norm(m.layer(x)), affine=False), statistics_scale),
    "batch norm and scale": (
        Branch(lambda m, x: x + m.drop(m.norm(m.layer(x))) * m.gamma.reshape(6, 1, 1)),
        lambda m: statistics_scale(m),
    ),
    "tokens": (Branch(lambda m, x: m.drop(m.layer(x)) + x, is_linear=True), lambda m: ONES),
    "layer scale": (Branch(lambda m, x: x + m.layer(x) * m.gamma, is_linear=True), lambda m: m.gamma.detach()),
    "layer scale first": (Branch(lambda m, x: x + m.gamma * m.layer(x), is_linear=True), lambda m: m.gamma.detach()),
    "down-sampled": (Branch(lambda m, x: m.norm(m.layer(x)) + m.down(x)), statistics_scale),
}
FOUND = [name for name in CHAINS if name != "batch norm and scale"]


@pytest.mark.parametrize("name", FOUND)
def test_branch_is_found_with_its_scale(name: str) -> None:
    """The chain of normalisation, layer scale and dropout up to the addition has the product of their factors."""
    model, scale = CHAINS[name]
    tail = tail_in(model)
    assert tail is not None
    torch.testing.assert_close(tail.scale, scale(model))


@pytest.mark.parametrize("name", FOUND)
def test_missing_makes_the_sum_exact(name: str) -> None:
    """A layer that puts out its dense values plus what is missing gives the dense network's sum."""
    model, _ = CHAINS[name]
    missing: list[Tensor] = []

    def act(networks: TwoNetworks, node: fx.Node) -> None:
        tail = tail_of(networks, node, repair=True, rectify=False)
        assert tail is not None
        assert tail.other is not None
        networks.compute(tail.other)
        assert networks.differs(tail.other)
        missing.extend(torch.as_tensor(tail.missing(networks, batch)) for batch in range(2))

    at_layer(model, act)
    batches = [batch.args[0] for batch in data(model)]
    with torch.no_grad():
        wanted = [model(batch) for batch in batches]
        dense: list[Tensor] = []
        handle = model.layer.register_forward_hook(lambda module, args, output: dense.append(output.clone()))
        for batch in batches:
            model(batch)
        handle.remove()
        model.before.weight.mul_(0.7)
        replaced = [value + lack for value, lack in zip(dense, missing, strict=True)]
        handle = model.layer.register_forward_hook(lambda module, args, output: replaced.pop(0))
        found = [model(batch) for batch in batches]
        handle.remove()
        model.before.weight.div_(0.7)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


NONE: dict[str, Branch] = {
    "a chain": Branch(lambda m, x: m.down(m.layer(x))),
    "a nonlinearity": Branch(lambda m, x: x + m.layer(x).relu()),
    "read twice": Branch(lambda m, x: (y := m.layer(x)) + x + y.mean()),
    "the other side depends on it": Branch(lambda m, x: (y := m.layer(x)) + m.down(y)),
    "added to itself": Branch(lambda m, x: (y := m.layer(x)) + y),
    "a weighted addition": Branch(lambda m, x: torch.add(x, m.layer(x), alpha=2)),
    "a number": Branch(lambda m, x: m.layer(x) + 1.0),
    "broadcast": Branch(lambda m, x: m.layer(x) + x.mean((2, 3), keepdim=True)),
    "a parameter": Branch(lambda m, x: m.layer(x) + m.gamma.reshape(6, 1, 1)),
    "scaled by an activation": Branch(lambda m, x: x + m.layer(x) * x.sigmoid()),
    "the last layer": Branch(lambda m, x: m.layer(x)),
    "statistics of the batch": Branch(lambda m, x: x + m.norm(m.layer(x)), track_running_stats=False),
}


@pytest.mark.parametrize("name", NONE)
def test_anything_else_has_no_tail(name: str) -> None:
    """Where the layer cannot repair the sum by itself, nothing is claimed."""
    assert tail_in(NONE[name]) is None


def test_switched_off_channels_are_left_alone() -> None:
    """A channel scaled to nothing asks for no repair instead of an infinite one."""
    model = Branch(lambda m, x: x + m.layer(x) * m.gamma, is_linear=True)
    randomise(model)
    with torch.no_grad():
        model.gamma[2], model.gamma[4] = 0.0, 1e-9
    found: list[Tensor] = []

    def visit(networks: TwoNetworks, node: fx.Node) -> None:
        name = networks.name_of(node.args[1]) if len(node.args) > 1 else None
        if name == "before.weight":
            networks.change(name, networks.tensors[name] * 0.7)
        if name == "layer.weight" and (tail := tail_of(networks, node, repair=True, rectify=False)) is not None:
            found.append(torch.as_tensor(tail.missing(networks, 0)))

    TwoNetworks(model, data(model), visit).run()
    assert bool(torch.isfinite(found[0]).all())
    assert not found[0][..., [2, 4]].any()
    assert found[0][..., [0, 1, 3, 5]].all()


def test_two_branches_of_one_addition_do_not_wait_for_each_other() -> None:
    """While one side is being fitted, the layer on the other side has no tail: the sum is the first one's to repair."""
    found: dict[str, Tail | None] = {}

    def visit(networks: TwoNetworks, node: fx.Node) -> None:
        name = networks.name_of(node.args[1]) if len(node.args) > 1 else None
        if name in ("layer.weight", "down.weight"):
            tail = found[name] = tail_of(networks, node, repair=True, rectify=False)
            if tail is not None and tail.other is not None:
                networks.compute(tail.other)

    model = randomise(Branch(lambda m, x: m.norm(m.layer(x)) + m.down(x)))
    TwoNetworks(model, data(model), visit).run()
    assert found["layer.weight"] is not None
    assert found["down.weight"] is None


RECTIFIED: dict[str, tuple[Branch, tuple[float, float]]] = {
    "plain": (Branch(lambda m, x: m.layer(x).relu()), (0.0, math.inf)),
    "in place": (Branch(lambda m, x: F.relu(m.layer(x), inplace=True)), (0.0, math.inf)),
    "batch norm": (Branch(lambda m, x: m.norm(m.layer(x)).relu()), (0.0, math.inf)),
    "batch norm without affine": (Branch(lambda m, x: m.norm(m.layer(x)).relu(), affine=False), (0.0, math.inf)),
    "bounded above": (Branch(lambda m, x: F.relu6(m.norm(m.layer(x)))), (0.0, 6.0)),
    "bounded on both sides": (Branch(lambda m, x: F.hardtanh(m.layer(x), -0.5, 0.25)), (-0.5, 0.25)),
    "usual bounds": (Branch(lambda m, x: F.hardtanh(m.layer(x))), (-1.0, 1.0)),
    "tokens": (Branch(lambda m, x: (m.layer(x) * m.gamma).relu(), is_linear=True), (0.0, math.inf)),
    "stream": (Branch(lambda m, x: (m.norm(m.layer(x)) + x).relu()), (0.0, math.inf)),
    "stream read twice behind": (Branch(lambda m, x: (y := (m.layer(x) + x).relu()) + m.down(y)), (0.0, math.inf)),
}


@pytest.mark.parametrize("name", RECTIFIED)
def test_rectifier_is_found_with_its_bounds_and_what_it_gets(name: str) -> None:
    """The dense pre-activations, clamped to the bounds, are what the rectifier gives out in the dense network."""
    model, bounds = RECTIFIED[name]
    found: list[Tensor] = []

    def act(networks: TwoNetworks, node: fx.Node) -> None:
        tail = tail_of(networks, node, repair=True, rectify=True)
        assert tail is not None
        assert tail.rectifies
        assert (tail.low, tail.high) == bounds
        assert (tail.other is not None) == name.startswith("stream")
        if tail.other is not None:
            networks.compute(tail.other)
        outputs = networks.dense_values(node)
        found.extend(tail.dense(networks, output, batch).clamp(*bounds) for batch, output in enumerate(outputs))

    at_layer(model, act)
    with torch.no_grad():
        wanted = [batch.call(model) for batch in data(model)]
        if "twice" in name:
            found = [value + model.down(value) for value in found]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


UNRECTIFIED: dict[str, Branch] = {
    "read beside the rectifier": Branch(lambda m, x: (y := m.layer(x)).relu() + y.mean()),
    "a smooth function": Branch(lambda m, x: F.silu(m.layer(x))),
    "the sum is read beside the rectifier": Branch(lambda m, x: (y := m.layer(x) + x).relu() + y),
    "the last layer": Branch(lambda m, x: m.layer(x)),
    "added to what depends on it": Branch(lambda m, x: ((y := m.layer(x)) + m.down(y)).relu()),
}


@pytest.mark.parametrize("name", UNRECTIFIED)
def test_errors_that_something_else_sees_count(name: str) -> None:
    """Only a rectifier that alone reads a value hides errors."""
    found: list[Tail | None] = []
    act = lambda networks, node: found.append(tail_of(networks, node, repair=True, rectify=True))  # noqa: E731
    at_layer(UNRECTIFIED[name], act)
    assert found[0] is None or not found[0].rectifies


def test_rectifier_behind_a_stream_needs_the_repair() -> None:
    """Without it the sum's error has a part that the layer does not see."""
    found: list[Tail | None] = []
    act = lambda networks, node: found.append(tail_of(networks, node, repair=False, rectify=True))  # noqa: E731
    at_layer(RECTIFIED["stream"][0], act)
    assert found == [None]
