"""Which samples differ from an earlier one by next to nothing: by rounding, or by another round of JPEG?

They say nothing new either. Held back, such a copy takes any fit for a good one that has seen its twin. A sample that
is taken for a copy and is none is lost: so what is in doubt stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from snp.graph.batch_form import by_kind
from snp.graph.batches import Batch

__all__ = ["compared", "is_table", "near_copies", "near_in_any", "without_near_copies"]

# More are not compared, each with each: among so many a few copies do no harm.
_MOST_SAMPLES = 2048
# Of a sample; longer ones are sketched in so many.
_MOST_VALUES = 4096
# Vectors of a few numbers come close to each other by chance.
_FEWEST_VALUES = 8
# Channels that are compared one by one, since they may have units of their own.
_MOST_CHANNELS = 16
# A copy differs by less than this share of what two samples differ by, most of the time.
_NEAR = 0.08
# Or, where that is less, of so many times what two samples of its own size would.
_OF_ITS_OWN = 2.0
# Of pairs of samples that differ by less: far enough from the rest that many copies hide nothing.
_USUAL = 0.75
# Of one sample. More that are near are a dense place of the data: a class, a machine at rest.
_MOST_COPIES = 16
# Beside the size of samples: distances are no more exact.
_ROUNDING = 1e-7


def compared(batch: Batch) -> tuple[Tensor, ...] | None:
    """What samples are compared by: parts [N, F], one for every input and channel, on a GPU if the batch is there.

    None where nothing can be nearly alike: of whole numbers, and of codes (one-hot, binary, signs), where one value
    that differs is another meaning.
    """
    parts, is_table_of, is_code = list[Tensor](), is_table(batch), True
    for place, value in sorted(batch.places, key=lambda pair: pair[0]):
        if not isinstance(value, Tensor) or value.ndim == 0 or place in batch.shared:
            continue
        if not value.is_floating_point():
            return None
        place_of_work = value.device if value.is_cuda else "cpu"
        values = value.detach().to(place_of_work, torch.promote_types(value.dtype, torch.float32))
        is_code = is_code and bool(((values.abs() <= 1) & (values == values.round())).all())
        has_channels = values.ndim > 2 and values.shape[1] <= _MOST_CHANNELS
        channels = values.unbind(1) if has_channels else (values,)
        rows = [channel.reshape(len(channel), -1) for channel in channels]
        parts += rows if is_table_of else [_sketched(each, max(1, _MOST_VALUES // len(rows))) for each in rows]
    return None if is_code else tuple(parts)


def _sketched(rows_NF: Tensor, most: int) -> Tensor:
    """Deviations from a sample's mean, and that mean, with distances as they were, and nearly so of many values.

    Every value has a say, of however few a sample consists that are not zero (count sketch, Charikar et al. 2002, with
    as many values in every sum, which needs no scattered writes).
    """
    count, width = rows_NF.shape
    mean = rows_NF.mean(dim=1, keepdim=True)
    rows = rows_NF - mean
    if width > most:
        generator = torch.Generator().manual_seed(0)
        summed = -(-width // most)
        signs = 2 * torch.randint(2, (width,), generator=generator).to(rows) - 1
        order = torch.randperm(width, generator=generator).to(rows.device)
        padded = F.pad((rows * signs)[:, order], (0, summed * most - width))
        rows = padded.reshape(count, summed, most).sum(dim=1)
    return torch.cat([rows, mean * width**0.5], dim=1)


def near_copies(parts: Sequence[Tensor], *, table: bool = False) -> Tensor:
    """Which samples are nearly one that stays and came before, shape [N], bool.

    Args:
        parts: values of samples, each [N, F]; copies are near in all. Other than of a table the last value is
            the mean, as in :func:`compared`.
        table: every column counts beside its own spread.
    """
    count, width = len(parts[0]), sum(part.shape[1] for part in parts)
    none = torch.zeros(count, dtype=torch.bool)
    if not 3 <= count <= _MOST_SAMPLES or width < _FEWEST_VALUES:
        return none
    apart = torch.stack([_apart(part.double(), table) for part in parts])
    # Parts in which a pair is equal say nothing of others.
    is_near = (apart.square().sum(dim=0) < _NEAR**2 * (apart > 0).sum(dim=0).clamp(min=1)).cpu()
    stays = none.clone()
    for sample in range(count):
        stays[sample] = not bool(is_near[sample][stays].any())
    is_crowded = is_near.float() @ (is_near.sum(dim=1) > _MOST_COPIES).float() > 0
    return ~stays & ~is_crowded


def _apart(values_NF: Tensor, table: bool) -> Tensor:
    """How far pairs are apart beside what others are, and beside what is in the smaller of both, [N, N].

    Whispers differ by little beside shouts, dark images beside bright ones: but not beside themselves.
    """
    centred = values_NF - values_NF.median(dim=0).values
    if table:
        spread = values_NF.std(dim=0, correction=0)
        centred = centred / torch.where(spread > 0, spread, 1.0)
    apart, norms = torch.cdist(centred, centred), centred.norm(dim=1)
    around = (centred - centred.mean(dim=0)).norm(dim=1)
    sizes = around if table else torch.minimum(around, values_NF[:, :-1].norm(dim=1))
    pairs = apart[torch.ones_like(apart, dtype=torch.bool).triu(diagonal=1)]
    usual = pairs.sort().values[int(_USUAL * (len(pairs) - 1))]
    # Two independent samples of one size differ by its square root of two.
    scale = (_OF_ITS_OWN * 2**0.5 * torch.minimum(sizes[:, None], sizes)).clamp(max=usual)
    is_equal = apart <= _ROUNDING * torch.maximum(norms[:, None], norms)
    return (apart / scale).masked_fill(is_equal, 0.0)


def without_near_copies(batches: Sequence[Batch], group: int = 1) -> list[Batch]:
    """The samples without near copies of others, in order.

    Args:
        batches: on any device.
        group: so many neighbours stay or go together, by the first of them (2: an image and its mirrored one).
    """
    found = list[Batch]()
    for alike in by_kind(batches):
        firsts = [batch.picked(torch.arange(0, batch.size, group)) for batch in alike]
        goes = near_in_any([compared(batch) for batch in firsts], is_table(alike[0]))
        if goes is None:
            found += alike
            continue
        for batch, gone in zip(alike, goes.split([batch.size for batch in firsts]), strict=True):
            new = (~gone).repeat_interleave(group).nonzero().flatten()
            if len(new) == batch.size:
                found.append(batch)
            elif len(new):
                found.append(batch.picked(new))
    return found


def near_in_any(batches: Sequence[tuple[Tensor, ...] | None], table: bool) -> Tensor | None:
    """:func:`near_copies` among what :func:`compared` gave of batches; None where they cannot be compared."""
    found = [parts for parts in batches if parts is not None]
    if len(found) < len(batches) or len({tuple(part.shape[1] for part in parts) for parts in found}) != 1:
        return None
    return near_copies([torch.cat(part) for part in zip(*found, strict=True)], table=table)


def is_table(batch: Batch) -> bool:
    """Is every sample a vector?"""
    return all(not isinstance(v, Tensor) or v.ndim <= 2 for place, v in batch.places if place not in batch.shared)
