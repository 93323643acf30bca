"""Are samples that differ by rounding or JPEG noise found, and no others?"""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image
from torch import Tensor

from snp.graph.batches import Batch
from snp.measure.near_copies import compared, near_copies, without_near_copies


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


def goes(*inputs: Tensor) -> int:
    """How many samples are taken for copies."""
    return len(inputs[0]) - sum(batch.size for batch in without_near_copies(Batch(inputs).split(50)))


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
        found = near_copies([((rows + 100) * units).double()], table=True)
        assert found.tolist() == [number >= 16 for number in range(len(rows))]


def test_others_are_none() -> None:
    """Independent samples, vectors of few numbers, a sample alone, numbers of words, and more than are compared."""
    assert not near_copies([drawn(1000, 8)], table=True).any()
    assert goes(pictures(500)) == 0
    for rows in (drawn(300, 2), drawn(1, 20), drawn(2, 20) * 1e-9, drawn(1500, 8).repeat(2, 1)):
        assert not near_copies([rows], table=True).any()
    words = [Batch((torch.ones(4, 6, dtype=torch.int64),))]
    assert without_near_copies(words) == words


def test_one_row_far_away_makes_no_copies_of_the_others() -> None:
    """What samples usually differ by is not what the farthest one does."""
    rows = drawn(64, 20)
    rows[5] *= 1e4
    assert not near_copies([rows], table=True).any()
    assert goes(rows[:, None]) == 0


def test_pairs_stay_together() -> None:
    """An image and its mirrored one stay or go by the image; images of several sizes are compared with their like."""
    small, large = pictures(8), pictures(6, 40)
    batches = [Batch((torch.stack([x, x.flip(-1)], dim=1).flatten(0, 1),)) for x in (small, small + 1e-4, large)]
    found = without_near_copies(batches, 2)
    assert [batch.size for batch in found] == [16, 12]
    assert all(torch.equal(have.args[0], want.args[0]) for have, want in zip(found, batches[::2], strict=True))


def test_what_is_small_beside_others_is_no_copy() -> None:
    """Whispers beside shouts, dark images beside bright ones, flat ones beside some of high contrast."""
    shouts = (torch.arange(100) % 3 == 0).float()
    waves = drawn(100, 1, 500) * (0.01 + shouts)[:, None, None]
    assert goes(waves) == goes(waves.repeat(1, 1, 20)) == 0
    dark = pictures(100) * (0.01 + shouts)[:, None, None, None]
    assert goes(dark) == 0
    level = torch.linspace(0, 1, 100)[:, None, None, None]
    assert goes(level + 0.001 * (pictures(100) - 0.5)) == 0
    assert goes(level.expand(-1, 3, 32, 32)) == 0  # of one colour each
    assert goes(torch.cat([dark, dark + 1e-6])) == 100


def test_places_where_samples_lie_close_are_no_copies() -> None:
    """Two classes that lie far apart, each with a spread of its own."""
    for seed, share in ((0, 2), (1, 3), (2, 5)):
        rows = drawn(200, 20, seed=seed) + 1000.0 * (torch.arange(200) % share == 0)[:, None]
        assert goes(rows) == goes(rows[:, None]) == 0


def test_one_input_says_nothing_of_another() -> None:
    """An image beside large numbers that many samples share; channels with units of their own."""
    images, station = pictures(60), 1e6 * drawn(6, 16, seed=3).repeat(10, 1)
    assert goes(images, station) == 0
    assert goes(torch.cat([images, images + 1e-5]), station.repeat(2, 1)) == 60
    pressure = 1e5 * drawn(6, 1, 32, 32, seed=3).repeat(10, 1, 1, 1)
    assert goes(torch.cat([images, pressure], dim=1)) == 0
    assert goes(torch.cat([images, torch.ones_like(pressure)], dim=1).repeat(2, 1, 1, 1) + 1e-5) == 60


def test_every_value_of_long_samples_is_looked_at() -> None:
    """Few of many values that differ, wherever they are: sparse images, read at a distance of 64 in a grid of 512."""
    images = torch.zeros(40, 1, 512, 512)
    images[:, 0, 10:500:7, 5] = 0.5 + drawn(40, 70).abs()
    images[:20, 0, ::8, ::8] = 100 * drawn(1, 64, 64)
    assert goes(images) == 0


def test_codes_that_differ_in_one_value_differ() -> None:
    """Genomes with one letter changed, as one-hot; and binary vectors."""
    genomes = torch.randint(4, (10, 1000), generator=torch.Generator().manual_seed(0)).repeat(5, 1)
    genomes[torch.arange(50), 17 * torch.arange(50)] += 1
    assert goes(torch.nn.functional.one_hot(genomes % 4, 4).float().movedim(2, 1)) == 0
    bits = (drawn(10, 2000) > 0).float().repeat(5, 1)
    bits[torch.arange(50), torch.arange(50)] = 0.0
    assert compared(Batch((bits,))) is None


def test_numbers_with_a_large_mean_are_told_apart() -> None:
    """In double precision as far as that goes."""
    assert goes(1e9 + drawn(40, 20).double()) == goes(1e9 + drawn(40, 1, 20).double()) == 0
