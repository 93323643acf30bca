"""Do the samples of a reader, times its weight, give what the layer puts out?"""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snp
from snp.graph import analyse
from snp.graph.units import Slice
from snp.measure.patches import patch_of
from snp.measure.readers import Patch, Reader, other_readers, readers_of
from tests.networks import cnn, images


class Two(nn.Module):
    """A convolution whose units the layer under test reads."""

    def __init__(self, layer: nn.Module, channels: int = 6) -> None:
        super().__init__()
        self.first, self.layer = nn.Conv2d(3, channels, 3, padding=1), layer
        self.last = nn.Conv2d(layer.weight.shape[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.first(x).relu()).relu())


LAYERS = {
    "plain": {"kernel_size": 3},
    "padded": {"kernel_size": 3, "padding": 1},
    "stride": {"kernel_size": 3, "padding": 1, "stride": 2},
    "uneven stride": {"kernel_size": 3, "stride": (1, 3)},
    "dilated": {"kernel_size": 3, "dilation": 2, "padding": 2},
    "not square": {"kernel_size": (1, 5), "padding": (0, 2), "dilation": (1, 2)},
    "pointwise": {"kernel_size": 1},
    "pointwise with stride": {"kernel_size": 1, "stride": 2},
    "pointwise with padding": {"kernel_size": 1, "padding": 1, "stride": 2},
    "same": {"kernel_size": (4, 3), "padding": "same", "dilation": (1, 2)},
    "valid": {"kernel_size": 3, "padding": "valid"},
    **{
        mode: {"kernel_size": 3, "padding": (2, 1), "padding_mode": mode}
        for mode in ("circular", "reflect", "replicate")
    },
    "circular same": {"kernel_size": 4, "padding": "same", "padding_mode": "circular"},
}


def reader_of(model: nn.Module, size: int, conv_gram: str = "patch") -> Reader:
    graph = analyse(model.eval(), torch.zeros(2, 3, size, size))
    return readers_of(model, graph, graph.groups, conv_gram)["layer.weight"]


@pytest.mark.filterwarnings("ignore:Using padding=.same.:UserWarning")  # of torch, where more goes behind
@pytest.mark.parametrize("size", [7, 20])
@pytest.mark.parametrize("kind", LAYERS)
def test_patches_times_weight_are_the_outputs(kind: str, size: int) -> None:
    """Rows of patches, flat weight and bias give the convolution's own output at the sampled positions."""
    layer = nn.Conv2d(6, 5, **LAYERS[kind])
    reader = reader_of(Two(layer), size)
    inputs = torch.randn(4, 6, size, size)
    with torch.no_grad():
        outputs = layer(inputs)
        found = reader.samples(inputs) @ layer.weight.flatten(1).T + layer.bias
    assert reader.fits_outputs
    torch.testing.assert_close(found, reader.outputs(outputs), rtol=1e-4, atol=1e-5)
    assert isinstance(reader.patch, Patch)
    num_positions = outputs[0, 0].numel()
    assert len(found) == 4 * min(64, num_positions)


SPACES = {
    "1d": (nn.Conv1d(6, 5, 5, padding=2, stride=2, padding_mode="circular"), (40,)),
    "1d same": (nn.Conv1d(6, 5, 4, padding="same", dilation=3), (300,)),
    "3d": (nn.Conv3d(6, 5, (3, 1, 2), padding=(1, 0, 1), stride=(1, 2, 1), dilation=(2, 1, 1)), (6, 5, 7)),
    "3d replicate": (nn.Conv3d(6, 5, 3, padding=1, padding_mode="replicate"), (6, 6, 6)),
}


@pytest.mark.filterwarnings("ignore:Using padding=.same.:UserWarning")
@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("num_positions", [0, None])
def test_patches_of_one_and_three_dimensions(kind: str, num_positions: int | None) -> None:
    """The same law for sound and video, sampled (at the analysed number of positions) or not."""
    layer, size = SPACES[kind]
    inputs = torch.randn(3, 6, *size)
    with torch.no_grad():
        outputs = layer(inputs)
        patch = patch_of(layer, outputs[0, 0].numel() if num_positions is None else num_positions)
        assert patch is not None
        reader = Reader("weight", "", 1, 6 * patch.size, patch=patch)
        found = reader.samples(inputs) @ layer.weight.flatten(1).T + layer.bias
        torch.testing.assert_close(found, reader.outputs(outputs), rtol=1e-4, atol=1e-5)


def transposed(rng: random.Random) -> tuple[Any, tuple[int, ...]]:
    """A transposed convolution of four channels and the size of its input; None where its output would be empty."""
    d, groups = rng.choice([1, 2, 2, 3]), rng.choice([1, 1, 2])
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[d - 1]
    kernel, stride, dilation = (tuple(rng.randint(1, most) for _ in range(d)) for most in (4, 3, 2))
    more = tuple(rng.randint(0, max(pair) - 1) for pair in zip(stride, dilation, strict=True))
    padding = tuple(rng.randint(0, step * (size - 1)) for step, size in zip(dilation, kernel, strict=True))
    layer = kind(4, 6, kernel, stride, padding, more, groups, False, dilation)
    return layer.double(), tuple(rng.randint(4, 6) for _ in range(d))


@pytest.mark.parametrize("seed", range(12))
def test_patches_of_transposed_convolutions(seed: int) -> None:
    """What the kernel, as outputs by rows, sees at each output position, for any stride, padding and groups."""
    rng = random.Random(seed)
    for wanted in (5, 10**9):
        layer, size = transposed(rng)
        found = patch_of(layer, 0, output_padding=layer.output_padding)
        assert found is not None
        patch, inputs = replace(found, wanted=wanted), torch.randn(2, 4, *size, dtype=torch.float64)
        with torch.no_grad():
            outputs = layer(inputs)
        reader = Reader("weight", "", 1, 4 * patch.size, patch=patch, num_blocks=layer.groups, input_dim=0)
        rows = reader.rows(layer.weight.detach()).flatten(1).chunk(layer.groups)
        parts = reader.samples(inputs).chunk(layer.groups, 1)
        products = torch.cat([part @ row.T for part, row in zip(parts, rows, strict=True)], 1)
        assert len(products) == 2 * min(wanted, outputs[0, 0].numel())
        torch.testing.assert_close(products, reader.outputs(outputs))


@pytest.mark.parametrize("calibration", ["sequential", "joint"])
def test_transposed_convolutions_are_fitted_element_by_element(calibration: str) -> None:
    """Closer to the dense network than with one transfer for the whole kernel, as for other convolutions."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(16, 12, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(12, 3, 3, 2, 1, output_padding=1),
    ).eval()  # fmt: skip
    images = F.avg_pool2d(torch.randn(96, 3, 10, 10), 3, 1)
    errors = []
    for conv_gram in ("patch", "channel"):
        small = snp.prune(
            model, [images[:64]], target_units=0.5, cut="uniform", calibration=calibration, conv_gram=conv_gram
        ).model
        with torch.no_grad():
            errors.append(float(F.mse_loss(small(images[64:]), model(images[64:]))))
    assert errors[0] < 0.95 * errors[1]


class Padded(nn.Module):
    """The same function twice: padded by the layer, or by an operator in front of a layer that pads nothing."""

    def __init__(self, mode: str, *, outside: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.layer = nn.Conv2d(16, 8, 3, **({} if outside else {"padding": 1, "padding_mode": mode}))
        self.mode, self.outside = mode, outside

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).relu()
        return self.layer(F.pad(hidden, (1, 1, 1, 1), mode=self.mode) if self.outside else hidden)


@pytest.mark.parametrize("calibration", ["sequential", "joint"])
@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_padding_by_the_layer_is_fitted_like_padding_in_front_of_it(mode: str, calibration: str) -> None:
    """One function, written in two ways, gets the same weights."""
    batches, found = [torch.randn(32, 3, 5, 5) for _ in range(4)], []
    for outside in (False, True):
        torch.manual_seed(3)
        model = Padded(mode, outside=outside).eval()
        options = {"target_units": 0.5, "ordering": "saw", "calibration": calibration}
        found.append(snp.prune(model, batches, **options))
    same = [result.plan.groups[0].kept.tolist() for result in found]
    assert same[0] == same[1]
    # Layers that pad for themselves have fewer positions without padding to be measured at; the fit sees all.
    torch.testing.assert_close(found[0].model.layer.weight, found[1].model.layer.weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pieces", [(1, 1, 1, 1), (3, 1)])
def test_positions_do_not_depend_on_how_the_data_are_split(pieces: tuple[int, ...]) -> None:
    """The samples of parts of a batch are, one after the other, the samples of the batch; nothing is drawn anew."""
    reader = reader_of(Two(nn.Conv2d(6, 5, 3)), 20)
    inputs = torch.randn(4, 6, 20, 20)
    assert reader.patch is not None
    assert reader.patch.positions is not None
    assert bool((reader.patch.positions.diff() > 0).all())
    assert torch.equal(torch.cat([reader.samples(part) for part in inputs.split(pieces)]), reader.samples(inputs))
    again = reader_of(Two(nn.Conv2d(6, 5, 3)), 20)
    assert again.patch is not None
    assert torch.equal(again.patch.positions, reader.patch.positions)


def test_inputs_of_another_size_are_not_sampled() -> None:
    """Positions are those of the analysed size; elsewhere all positions count, on both sides alike."""
    layer = nn.Conv2d(6, 5, 3)
    reader = reader_of(Two(layer), 20)
    inputs = torch.randn(2, 6, 13, 13)
    with torch.no_grad():
        found = reader.samples(inputs) @ layer.weight.flatten(1).T + layer.bias
        torch.testing.assert_close(found, reader.outputs(layer(inputs)), rtol=1e-4, atol=1e-5)
    assert len(found) == 2 * 11 * 11


def test_channel_reader_has_the_channels_of_every_position() -> None:
    """Without patches a convolution's samples are channels and cannot be matched with outputs."""
    reader = reader_of(Two(nn.Conv2d(6, 5, 3)), 8, conv_gram="channel")
    inputs = torch.randn(2, 6, 8, 8)
    assert reader.patch is None
    assert not reader.fits_outputs
    assert torch.equal(reader.samples(inputs), inputs.permute(0, 2, 3, 1).reshape(-1, 6))


@pytest.mark.parametrize(("channels", "count"), [(6, 64), (256, 64), (300, 75)])
def test_of_large_maps_some_positions_are_samples(channels: int, count: int) -> None:
    """The same of every image, no position twice, at least 64 and a quarter of the channels; fits look at all."""
    model = Two(nn.Conv2d(channels, 5, 3), channels)
    reader = reader_of(model, 20, conv_gram="channel")
    places = torch.arange(400.0).reshape(1, 1, 20, 20).expand(2, channels, 20, 20)
    first, second = reader.samples(places).reshape(2, count, channels)
    assert torch.equal(first, second)
    assert torch.equal(first[:, :1].expand(-1, channels), first)
    assert len(first[:, 0].unique()) == count
    graph = analyse(model.eval(), torch.zeros(2, 3, 20, 20))
    fitted = readers_of(model, graph, graph.groups, "channel", by_block=True)["layer.weight"]
    assert len(fitted.samples(places)) == 2 * 400


@pytest.mark.parametrize("shape", [(4, 6), (4, 7, 6), (2, 3, 5, 6)])
def test_linear_samples_times_weight_are_the_outputs(shape: tuple[int, ...]) -> None:
    """A linear layer's rows and outputs match whatever dimensions stand in front."""
    layer, reader = nn.Linear(6, 5), Reader("weight", "", -1, 6)
    inputs = torch.randn(shape)
    with torch.no_grad():
        outputs = layer(inputs)
        torch.testing.assert_close(reader.samples(inputs) @ layer.weight.T + layer.bias, reader.outputs(outputs))


def test_columns_of_patches_are_all_kernel_elements_of_a_channel() -> None:
    """Zeroing a unit's Gram columns in the flat weight is zeroing its channels in the kernel."""
    layer = nn.Conv2d(6, 5, (3, 2))
    reader = reader_of(Two(layer), 9)
    member = Slice("layer.weight", 1, torch.tensor([[0, 3], [1, 4], [2, 5]]))
    columns = reader.columns(member)
    assert columns.shape == (3, 12)
    for unit in range(3):
        flat = layer.weight.detach().flatten(1).clone()
        flat[:, columns[unit]] = 0
        wanted = layer.weight.detach().clone()
        wanted[:, member.index[unit]] = 0
        assert torch.equal(flat.reshape(wanted.shape), wanted)


def test_what_is_too_large_or_computes_something_else_is_read_by_channels() -> None:
    """Gram matrices that would be too large, and layers whose forward is their own, fall back to channels."""

    class Own(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flip(-1))

    for layer in (nn.Conv2d(1000, 2, 3), Own(6, 5, 3)):
        assert patch_of(layer, 64) is None


@pytest.mark.parametrize("conv_gram", ["patch", "channel"])
def test_other_readers_are_fitted_by_outputs_and_never_grouped(conv_gram: str) -> None:
    """Depthwise and grouped layers, and what is read already, are left out; what is in can be fitted directly."""
    model = nn.Sequential(cnn(), nn.Softmax(dim=1), nn.Linear(5, 3))
    model[0].depth = nn.Conv2d(24, 24, 3, padding=1, groups=4)
    graph = analyse(model.eval(), images(2))
    readers = readers_of(model, graph, graph.groups, conv_gram)
    others = other_readers(model, graph, readers, conv_gram)
    assert not set(readers) & set(others)
    assert readers["0.depth.weight"].num_blocks == 4
    assert "0.depth.weight" not in other_readers(model, graph, {}, conv_gram)
    if conv_gram == "patch":
        assert set(readers) | set(others) == set(graph.positions)
    else:
        assert set(others) == {"2.weight"}
    assert all(reader.fits_outputs for reader in others.values())
