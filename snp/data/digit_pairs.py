"""What are numbers of two digits, over each other in noise: a task without a download that networks do not solve?

The digits themselves are too easy to rank anything: a pruned network is right on 99 of 100 of them whatever was cut.
"""

import torch

from snp.data.base import ImageFormat, Part, Samples, Transform
from snp.data.digits import OfDigits, handwritten, resized
from snp.data.transforms import of_small_images

__all__ = ["DigitPairs", "write_pairs"]

SIZES = {"train": 6000, "test": 2000}
SEEDS = {"train": 0, "test": 1}
CANVAS, DIGIT = 16, 8
LEFTS, APART = 3, (4, 5)  # places of the first digit, and columns from there to the second one: 8 would not overlap
NOISE = 0.25  # standard deviation, of the range from black to white


class DigitPairs(OfDigits):
    """A hundred classes of 16 x 16 grey images: two of scikit-learn's digits, at random heights, overlapping, in noise.

    Always the same images. Those of the test part are made of handwriting that no training image shows.
    """

    title = "digit_pairs"

    @property
    def num_classes(self) -> int:
        """A hundred: 0 to 99."""
        return 100

    def samples(self, part: Part) -> Samples:
        """Images uint8 (3, image_size, image_size) in memory, labels int64: ten times the left digit plus the right."""
        assert self.format is not None
        images, labels = write_pairs(*handwritten(part), SIZES[part], SEEDS[part])
        return resized(images, labels, self.format)

    def transform(self, image_format: ImageFormat, *, training: bool) -> Transform:
        """Training images are moved by a pixel of the canvas, and never mirrored."""
        shift = max(1, image_format.image_size // CANVAS) if training else 0
        return of_small_images(image_format, shift=shift, flip=False)


def write_pairs(
    digits: torch.Tensor, values: torch.Tensor, count: int, seed: int, noise: float = NOISE
) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of two digits drawn at random, the left one first.

    Args:
        digits: shape [D, 8, 8], in [0, 1].
        values: what they show, int64 [D].
        count: N, how many numbers.
        seed: of the draw.
        noise: standard deviation, 0 or more.

    Returns:
        Images uint8 [N, 1, 16, 16] and the numbers, int64 [N].
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(digits), (count, 2), generator=generator)
    tops = torch.randint(CANVAS - DIGIT + 1, (count, 2), generator=generator)
    lefts = torch.randint(LEFTS, (count,), generator=generator)
    gaps = torch.randint(APART[0], APART[1] + 1, (count,), generator=generator)
    canvas = torch.zeros(count, CANVAS, CANVAS)
    for index in range(count):
        for place, left in enumerate((lefts[index], lefts[index] + gaps[index])):
            top = tops[index, place]
            area = canvas[index, top : top + DIGIT, left : left + DIGIT]
            torch.maximum(area, digits[chosen[index, place]], out=area)
    canvas += noise * torch.randn(canvas.shape, generator=generator)
    labels = 10 * values[chosen[:, 0]] + values[chosen[:, 1]]
    return (canvas.clamp(0, 1) * 255).round().to(torch.uint8).unsqueeze(1), labels
