"""Do the samples of a reader, times its weight, give what the layer puts out?"""

import pytest
import torch
from torch import Tensor, nn

from snp.graph import analyse
from snp.graph.units import Slice
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
}


def reader_of(model: nn.Module, size: int, conv_gram: str = "patch") -> Reader:
    graph = analyse(model.eval(), torch.zeros(2, 3, size, size))
    return readers_of(model, graph, graph.groups, conv_gram)["layer.weight"]


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
    reader = reader_of(Two(nn.Conv2d(6, 5, 3)), 9, conv_gram="channel")
    inputs = torch.randn(2, 6, 9, 9)
    assert reader.patch is None
    assert not reader.fits_outputs
    assert torch.equal(reader.samples(inputs), inputs.permute(0, 2, 3, 1).reshape(-1, 6))


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


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 5, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(6, 5, 3, padding="same"),
        nn.Conv2d(1000, 2, 3),
    ],
)
def test_what_unfold_does_not_describe_is_read_by_channels(layer: nn.Module) -> None:
    """Other paddings and Gram matrices that would be too large fall back to channels."""
    assert reader_of(Two(layer, layer.weight.shape[1]), 8).patch is None


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
