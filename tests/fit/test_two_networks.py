"""Do the dense and the changed network compute what they compute on their own?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from snp.fit.rows import equal_batches
from snp.fit.two_networks import TwoNetworks
from snp.graph.batches import Batch
from snp.surgery.surgery import with_weights
from tests.audit import randomise
from tests.networks import attention, cnn, images, tokens


class Net(nn.Module):
    """A function of layers a, b and c of eight units."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def rows(num_batches: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 8, generator=generator) for _ in range(num_batches)]


def output_of(networks: TwoNetworks, store: str) -> list[Tensor]:
    node = next(node for node in networks.graph.nodes if node.op == "output").args[0][0]
    return getattr(networks, store)[node]


def assert_equals_forward(
    model: nn.Module, batches: Sequence[Any], changes: Mapping[str, Tensor] | None = None
) -> TwoNetworks:
    """Both networks' outputs, the changed tensors given when the first node is computed."""

    def visit(networks: TwoNetworks, node: fx.Node) -> None:
        for name, value in (changes or {}).items():
            if name not in networks.changed:
                networks.change(name, value)

    networks = TwoNetworks(model, Batch.all(batches), visit)
    networks.run()
    for store, network in (("dense", model), ("current", with_weights(model, changes or {}))):
        with torch.no_grad():
            wanted = [Batch.of(batch).call(network) for batch in batches]
        for have, want in zip(output_of(networks, store), wanted, strict=True):
            torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-5)
    return networks


def shaken(model: nn.Module, seed: int = 1) -> dict[str, Tensor]:
    """Other values of every third weight and statistic."""
    generator = torch.Generator().manual_seed(seed)
    state = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point() and tensor.ndim}
    return {
        name: tensor * (0.5 + torch.rand(tensor.shape, generator=generator))
        for number, (name, tensor) in enumerate(state.items())
        if number % 3 == 0
    }


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "cnn": (cnn, lambda: images(4)),
    "attention": (attention, lambda: tokens(4)),
    "resnet18": (lambda: randomise(timm.create_model("resnet18", num_classes=5)), lambda: torch.randn(4, 3, 32, 32)),
    "mobilenetv3": (
        lambda: randomise(timm.create_model("mobilenetv3_small_050", num_classes=5)),
        lambda: torch.randn(4, 3, 32, 32),
    ),
    "vit": (
        lambda: randomise(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5)),
        lambda: torch.randn(4, 3, 32, 32),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_values_equal_those_of_the_networks_themselves(name: str) -> None:
    """Over two batches, the dense network and one with a third of its tensors replaced give their own outputs."""
    build, data = NETWORKS[name]
    model, batch = build().eval(), data()
    assert_equals_forward(model, batch.split(2), shaken(model))


@pytest.mark.parametrize("name", NETWORKS)
def test_values_are_dropped_after_their_last_use(name: str) -> None:
    """At the end only the outputs are left."""
    build, data = NETWORKS[name]
    networks = TwoNetworks(build().eval(), Batch.all(data().split(2)), lambda networks, node: None)
    networks.run()
    (output,) = (node for node in networks.graph.nodes if node.op == "output")
    used = {node for node in networks.dense if node.users}
    assert used <= set(output.all_input_nodes)
    assert set(networks.dense) == set(networks.current)


def _discarded(m: Net, x: Tensor) -> Tensor:
    y = m.a(x)
    F.relu_(y)
    return m.b(y) + y


def _under_two_names(m: Net, x: Tensor) -> Tensor:
    y = m.a(x)
    z = y.add_(m.c(y))
    return m.b(z) * y


def _added_into_stream(m: Net, x: Tensor) -> Tensor:
    y = m.a(x)
    y += m.b(y.clone())
    y += m.c(y)
    return y


def _assigned_part(m: Net, x: Tensor) -> Tensor:
    y = m.a(x)
    y[:, :3] = 0
    y[:, 5:] += 1
    return m.b(y)


def _through_a_view(m: Net, x: Tensor) -> Tensor:
    y = m.a(x)
    y.reshape(-1, 2, 4)[:, 1].mul_(3)
    return m.b(y)


def _seen_by_an_older_view(m: Net, x: Tensor) -> Tensor:
    y = m.a(x)
    view = y[:, :4]
    y.mul_(2)
    return m.b(y) + view.sum(1, keepdim=True)


def _alone_in_its_view(m: Net, x: Tensor) -> Tensor:
    return m.b(m.a(x).view(-1, 2, 4).relu_().flatten(1))


INPLACE = [
    _discarded,
    _under_two_names,
    _added_into_stream,
    _assigned_part,
    _through_a_view,
    _seen_by_an_older_view,
    _alone_in_its_view,
]


@pytest.mark.parametrize("function", INPLACE)
def test_writing_in_place_is_safe(function: Callable[..., Tensor]) -> None:
    """Values written over are seen by all names that share them, and by one network only."""
    model, batches = Net(function), rows()
    before = [batch.clone() for batch in batches]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    assert_equals_forward(model, batches, {"c.bias": torch.ones(8), "b.weight": torch.eye(8)})
    assert_equals_forward(model, batches, {"a.bias": torch.ones(8)})
    assert all(torch.equal(batch, kept) for batch, kept in zip(batches, before, strict=True))
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def _no_grad(m: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = m.a(x).relu()
    return m.b(y)


def _constant(m: Net, x: Tensor) -> Tensor:
    return m.a(x) * torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8]) + torch.arange(8)


@pytest.mark.parametrize("function", [_no_grad, _constant])
def test_blocks_without_gradients_and_constants(function: Callable[..., Tensor]) -> None:
    """What export keeps beside the operators has its value, too."""
    assert_equals_forward(Net(function), rows(), {"a.weight": torch.eye(8)})


def test_tied_tensors_change_together() -> None:
    """Two layers with one weight, and a bias under a second name, have the name that the model lists them by."""
    model = Net(lambda m, x: m.b(m.a(x).relu()) + m.extra)
    model.b.weight, model.extra = model.a.weight, model.a.bias
    assert_equals_forward(model, rows(), {"a.weight": torch.eye(8), "extra": torch.ones(8)})


def test_buffers_outside_the_state_dict_are_known() -> None:
    """A buffer that is not saved still has its value."""
    model = Net(lambda m, x: m.a(x) * m.scale)
    model.register_buffer("scale", torch.arange(8.0), persistent=False)
    assert_equals_forward(model, rows(), {"a.bias": torch.ones(8)})


def test_networks_share_values_until_they_differ() -> None:
    """Before a change both networks hold the very same lists; from the changed layer on they do not."""
    model, shared = Net(lambda m, x: m.c(m.b(m.a(x)).relu())), {}

    def visit(networks: TwoNetworks, node: fx.Node) -> None:
        if networks.name_of(node.args[1] if len(node.args) > 1 else None) == "b.weight":
            networks.change("b.weight", torch.eye(8))
        shared.update({argument.name: not networks.differs(argument) for argument in networks.dense})

    networks = TwoNetworks(model, Batch.all(rows()), visit)
    networks.run()
    assert shared == {"x": True, "linear": True, "linear_1": False, "relu": False}
    assert set(networks.changed) == {"b.weight"}
    assert output_of(networks, "dense") is not output_of(networks, "current")


def test_nothing_changed_computes_nothing_twice() -> None:
    """Without a change the outputs of the two networks are one object."""
    networks = assert_equals_forward(cnn(), images(4).split(2))
    assert output_of(networks, "dense") is output_of(networks, "current")


class Keywords(nn.Module):
    """Two inputs that must not be mixed up, and settings beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, first: Tensor, second: Tensor, flag: bool = False, extra: Tensor | None = None) -> Tensor:
        return self.a(first) - self.b(second) * (2 if flag else 1)


@pytest.mark.parametrize(
    "order",
    [("first", "second"), ("second", "first"), ("flag", "first", "second", "extra"), ("extra", "second", "first")],
)
def test_batches_of_keyword_arguments(order: tuple[str, ...]) -> None:
    """Mappings in any order, with switches and None among them, reach the right arguments, in equal batches too."""
    first, second = rows(2)
    given = {"first": first, "second": second, "flag": True, "extra": None}
    batch = {name: given[name] for name in order}
    assert_equals_forward(Keywords(), [batch, batch], {"a.weight": torch.eye(8)})
    again = equal_batches(Batch.all([batch, batch]), 2)
    assert [part.size for part in again] == [2, 2, 2]
    assert torch.equal(torch.cat([part.kwargs["second"] for part in again]), torch.cat([second, second]))
    assert_equals_forward(Keywords(), again, {"a.weight": torch.eye(8)})


@pytest.mark.parametrize(("num_bytes", "samples"), [(0, 2), (1, 2), (10**9, 12)])
def test_limit_keeps_at_least_one_batch(num_bytes: int, samples: int) -> None:
    """What does not fit is left out, never everything."""
    networks = TwoNetworks(cnn(), Batch.all(images(12).split(2)), lambda networks, node: None)
    assert networks.limit(num_bytes) == samples
    networks.run()
    assert sum(len(part) for part in output_of(networks, "current")) == samples


def test_limit_is_what_the_values_take() -> None:
    """The widest point of the network, for both networks, decides how many batches fit."""
    model = Net(lambda m, x: m.b(m.a(x).relu()))
    networks = TwoNetworks(model, Batch.all(rows(10)), lambda networks, node: None)
    value = 3 * 8 * 4  # one value of a batch: at most two are alive, in each network
    assert networks.limit(3 * 2 * 2 * value) == 9


@pytest.mark.parametrize(("sizes", "largest", "wanted"), [((5, 5, 2), 8, 6), ((128, 128), 128, 128), ((3,), 8, 3)])
def test_equal_batches_keep_every_sample_in_order(sizes: tuple[int, ...], largest: int, wanted: int) -> None:
    """Where the number of samples has a good divisor, all are kept, whatever the batches were."""
    samples = torch.arange(sum(sizes))
    found = equal_batches(Batch.all(samples.split(list(sizes))), largest)
    assert {batch.size for batch in found} == {wanted}
    assert torch.equal(torch.cat([batch.args[0] for batch in found]), samples)


def test_equal_batches_of_a_prime_number_drop_less_than_one_batch() -> None:
    """One sample at a time would be slow; the rest of the last batch is left out instead."""
    found = equal_batches([Batch.of(torch.arange(101))], 10)
    assert [batch.size for batch in found] == [10] * 10
    assert torch.equal(torch.cat([batch.args[0] for batch in found]), torch.arange(100))
