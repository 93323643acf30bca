"""Do kernels that are computed on the way become plain weights, to the last digit, and can they be cut then?"""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import snp
from snp.graph.batches import Batch
from snp.graph.plain_weights import SamePaddedConv2d, with_plain_weights
from snp.settings import PruneSettings
from snp.surgery.subject import survey
from snp.surgery.trial_cuts import confirm
from tests.audit import audit, control, randomise
from tests.graphs import Net, conv
from tests.networks import images

STANDARDISED = [StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame]


class Normed(nn.Conv2d):
    """A kernel divided by its norm, written by hand."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight / self.weight.norm(), self.bias)


class FromInputs(nn.Conv2d):
    """A kernel that depends on the inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * x.mean(), self.bias)


class Scaled(nn.Conv2d):
    """A plain kernel with something behind it."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self._conv_forward(x, self.weight, self.bias)


def network(kind: Any, **options: Any) -> Net:
    """A stride, a grouped and a depthwise layer of one class between plain ones."""
    return randomise(
        Net(
            lambda m, x: m.head(F.relu(m.last(F.relu(m.deep(F.relu(m.first(x)))))).mean((2, 3))),
            first=kind(3, 12, 3, stride=2, **options),
            deep=kind(12, 24, 3, groups=3, **options),
            last=kind(24, 8, 1, **options),
            head=nn.Linear(8, 4),
        )
    )


@pytest.mark.parametrize("size", [7, 8, 15])
@pytest.mark.parametrize("kind", [*STANDARDISED, Normed])
def test_plain_layers_compute_the_same(kind: Any, size: int) -> None:
    """At sizes that the layers were not tried at, too; the network itself keeps its layers."""
    model, batch = network(kind), torch.randn(2, 3, size, size)
    plain = with_plain_weights(model)
    same = kind in (StdConv2dSame, ScaledStdConv2dSame)
    assert type(plain.first) is (SamePaddedConv2d if same else nn.Conv2d)
    assert type(plain.last) is nn.Conv2d  # a kernel of one pixel pads nothing
    assert {name for name, _ in plain.named_parameters()} == {
        name for name, _ in model.named_parameters() if not name.endswith("gain")
    }
    assert type(model.first) is kind
    with torch.no_grad():
        torch.testing.assert_close(plain(batch), model(batch), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", [weight_norm, spectral_norm])
def test_parametrised_weights_are_written_down(norm: Any) -> None:
    """Layers of torch's own weight and spectral norm, linear ones included."""
    model = randomise(
        Net(lambda m, x: m.head(F.relu(m.first(x)).mean((2, 3))), first=norm(conv(3, 8)), head=norm(nn.Linear(8, 4)))
    )
    plain = with_plain_weights(model)
    assert {"first.weight", "head.weight"} <= {name for name, _ in plain.named_parameters()}
    with torch.no_grad():
        torch.testing.assert_close(plain(images(2)), model(images(2)))


def test_what_is_no_constant_stays() -> None:
    """Kernels that depend on inputs, plain kernels with other padding or a scale: the same object comes back."""
    for kind in (FromInputs, Conv2dSame, Scaled):
        model = Net(lambda m, x: m.first(x), first=kind(3, 8, 3)).eval()
        assert with_plain_weights(model) is model
    model = randomise(Net(lambda m, x: m.first(x), first=conv(3, 8)))
    assert with_plain_weights(model) is model


def test_module_used_twice_stays_one() -> None:
    """A layer under two names is written down once."""
    model = Net(lambda m, x: m.two(F.relu(m.one(x))), one=StdConv2d(3, 3, 3)).eval()
    model.two = model.one
    plain = with_plain_weights(model)
    assert plain.one is plain.two
    assert type(plain.one) is nn.Conv2d


@pytest.mark.parametrize("kind", STANDARDISED)
def test_standardised_units_can_be_cut(kind: Any) -> None:
    """Groups of a network with weight standardisation, held to the audit."""
    model, batch = network(kind), images(2)
    found = survey(model, batch, PruneSettings())
    assert [(group.num_units, group.num_partitions) for group in found.groups] == [(12, 3), (24, 3), (8, 1)]
    plain = with_plain_weights(model)
    for number, group in enumerate(found.groups):
        assert audit(plain, [group], batch, seed=number) < 1e-4
        assert control(plain, [group], batch, seed=number) > 1e-4
    assert confirm(plain, found.groups, Batch.of(batch))[1] == {}


def test_standardised_groups_are_listed() -> None:
    """A list of what could be cut, before anything is, shows them as well, and the network is left alone."""
    model = network(ScaledStdConv2d)
    found = snp.inspect(model, images(2), ignore=("head",))
    assert [(group.name, group.num_units, group.frozen is None) for group in found.groups] == [
        ("first", 12, True),
        ("deep", 24, True),
        ("last", 8, False),
    ]
    assert type(model.first) is ScaledStdConv2d


@pytest.mark.parametrize("calibration", ["joint", "sequential"])
@pytest.mark.parametrize("kind", STANDARDISED)
def test_standardised_network_is_cut_and_comes_back(kind: Any, calibration: str, tmp_path: Path) -> None:
    """The fit is closer to the dense network than deletion, and the stock network with its own layers loads it."""
    model, batch = network(kind), images(32)
    options: dict[str, Any] = {"target_macs": 0.6, "ordering": "variance", "cut": "uniform"}
    result = snp.prune(model, [batch], calibration=calibration, **options)
    deleted = snp.prune(model, [batch], reconstruct=False, **options)
    with torch.no_grad():
        errors = [float((m(batch) - model(batch)).square().mean()) for m in (result.model, deleted.model)]
    assert errors[0] < errors[1]
    assert type(model.first) is kind
    snp.save(result, tmp_path)
    with torch.no_grad():
        assert torch.equal(snp.load(tmp_path, network(kind))(batch), result.model(batch))


@pytest.mark.parametrize("is_trained", [True, False])
def test_written_down_weights_are_trained_where_their_parameters_are(is_trained: bool) -> None:
    """A frozen layer stays frozen, its bias too, whether or not gradients are on."""
    layer = weight_norm(nn.Linear(4, 3)).requires_grad_(is_trained)
    with torch.no_grad():
        plain = with_plain_weights(nn.Sequential(layer).eval())[0]
    assert {name: parameter.requires_grad for name, parameter in plain.named_parameters()} == {
        "weight": is_trained, "bias": is_trained,
    }  # fmt: skip
