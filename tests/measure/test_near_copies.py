"""Are samples that differ by rounding or JPEG noise found, and no others?"""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image
from torch import Tensor

from snp.graph.batches import Batch
from snp.measure.near_copies import near_copies, without_near_copies


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pictures(count: int, size: int = 32) -> Tensor:
    """Smooth ones in [0, 1], [N, 3, H, W], that differ more in brightness than in colour, as photographs do."""
    coarse = 1.5 * drawn(count, 1, 5, 5) + 0.3 * drawn(count, 3, 3, 3, seed=1).repeat(1, 1, 2, 2)[:, :, :5, :5]
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").sigmoid()


def written(images: Tensor, quality: int) -> Tensor:
    """The same images after JPEG."""
    found = []
    for image in (images * 255).round().byte().movedim(1, -1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        pixels = torch.frombuffer(bytearray(Image.open(buffer).convert("RGB").tobytes()), dtype=torch.uint8)
        found.append(pixels.reshape(image.shape).movedim(-1, 0) / 255)
    return torch.stack(found)


@pytest.mark.parametrize("quality", [75, 95])
def test_images_written_again_are_copies(quality: int) -> None:
    """With all of them twice, and in whatever batches; the first of each stays."""
    images = pictures(24)
    both = torch.cat([images, written(images, quality)])
    found = without_near_copies(Batch((both,)).split(10))
    assert torch.equal(torch.cat([batch.args[0] for batch in found]), images)


@pytest.mark.parametrize("noise", [1e-6, 1e-4, 1e-2])
@pytest.mark.parametrize("copies", [2, 16])
def test_rows_with_noise_on_them_are_copies(copies: int, noise: float) -> None:
    """Whatever their mean and the units of their columns."""
    rows = drawn(16, 20).repeat(copies, 1)
    rows = rows + noise * drawn(*rows.shape, seed=1)
    for units in (torch.ones(20), torch.logspace(-3, 3, 20)):
        found = near_copies(((rows + 100) * units).double(), table=True)
        assert found.tolist() == [number >= 16 for number in range(len(rows))]


def test_others_are_none() -> None:
    """Independent samples, vectors of few numbers, a sample alone, numbers of words, and more than are compared."""
    assert not near_copies(drawn(1000, 8), table=True).any()
    assert not near_copies(pictures(500).flatten(1)).any()
    assert not near_copies(torch.zeros(40, 30)).any()  # nothing to differ by: equal ones go elsewhere
    for rows in (drawn(300, 2), drawn(1, 20), drawn(2, 20) * 1e-9, drawn(1500, 8).repeat(2, 1)):
        assert not near_copies(rows, table=True).any()
    words = [Batch((torch.ones(4, 6, dtype=torch.int64),))]
    assert without_near_copies(words) == words


def test_one_row_far_away_makes_no_copies_of_the_others() -> None:
    """What samples usually differ by is not what the farthest one does."""
    rows = drawn(64, 20)
    rows[5] *= 1e4
    assert not near_copies(rows).any()


def test_pairs_stay_together() -> None:
    """An image and its mirrored one stay or go by the image; images of several sizes are compared with their like."""
    small, large = pictures(8), pictures(6, 40)
    batches = [Batch((torch.stack([x, x.flip(-1)], dim=1).flatten(0, 1),)) for x in (small, small + 1e-4, large)]
    found = without_near_copies(batches, 2)
    assert [batch.size for batch in found] == [16, 12]
    assert all(torch.equal(have.args[0], want.args[0]) for have, want in zip(found, batches[::2], strict=True))
