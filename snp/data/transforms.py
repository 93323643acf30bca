"""How do raw images become what the network was trained on?"""

import torch
from torchvision.transforms import InterpolationMode, v2

from snp.data.base import ImageFormat, Transform


def interpolation_of_tensors(name: str) -> InterpolationMode:
    """The interpolation of a name such as "bilinear"; filters that only PIL has become bicubic."""
    known = {"nearest": InterpolationMode.NEAREST, "bilinear": InterpolationMode.BILINEAR}
    return known.get(name, InterpolationMode.BICUBIC)


def of_small_images(image_format: ImageFormat, *, shift: int, flip: bool) -> Transform:
    """For uint8 tensors (3, H, W) that show the object whole, such as CIFAR: no centre crop.

    Args:
        image_format: size and statistics of the result.
        shift: pixels by which training images move at random, before resizing; 0 for evaluation.
        flip: whether training images are mirrored at random.
    """
    size = [image_format.image_size, image_format.image_size]
    steps: list[torch.nn.Module] = [v2.RandomHorizontalFlip()] if flip else []
    if shift:
        steps.append(RandomShift(shift))
    steps.append(v2.Resize(size, interpolation=interpolation_of_tensors(image_format.interpolation), antialias=True))
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(image_format.mean), list(image_format.std))]
    transform: Transform = v2.Compose(steps)
    return transform


class RandomShift(torch.nn.Module):
    """Moves an image (C, H, W) by up to `shift` pixels in each direction and fills up with zeros."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Same shape, dtype and device."""
        height, width = image.shape[-2:]
        top, left = torch.randint(0, 2 * self.shift + 1, (2,)).tolist()
        padded = torch.nn.functional.pad(image, (self.shift,) * 4)
        return padded[:, top : top + height, left : left + width]


def of_photographs(image_format: ImageFormat, *, training: bool) -> Transform:
    """For PIL images of any size: timm's standard ones.

    Training: a random part of the image (8 to 100 %), resized, mirrored at random. Evaluation: resized, centre crop.
    """
    from timm.data import create_transform

    transform: Transform = create_transform(
        input_size=image_format.image_size,
        is_training=training,
        color_jitter=0.0,
        interpolation=image_format.interpolation,
        mean=image_format.mean,
        std=image_format.std,
        crop_pct=image_format.crop_fraction,
    )
    return transform
