"""Which calibration samples repeat one that was there before?  They say nothing new, and are left out.

Samples held back from a fit tell chance from what is real; with a copy among the fitted ones they tell nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from snp.graph.batches import Batch
from snp.graph.edges import SEVERAL_GRAPHS, edges_told
from snp.graph.shared_inputs import tensors_told

__all__ = ["Repeats"]

# Values of a sample that are compared one by one, evenly spread over it, beside the sum of all.
_MOST_VALUES = 4096


class Repeats:
    """Batches without the samples that they, or earlier ones, held before.

    Attributes:
        num_samples: seen so far, repeats included.
        num_repeats: left out so far.
        kept: numbers of the others among those seen.
    """

    def __init__(self) -> None:
        self.num_samples = self.num_repeats = 0
        self.kept: list[int] = []
        self._seen: set[bytes] = set()

    def left_out_of(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches one by one, as they are asked for; those of repeats alone are not among them."""
        for batch in batches:
            new = [number for number, mark in enumerate(_marks(batch)) if self._is_new(mark)]
            self.kept += [self.num_samples + number for number in new]
            self.num_samples += batch.size
            self.num_repeats += batch.size - len(new)
            if len(new) == batch.size:
                yield batch
            elif new:
                yield batch.picked(torch.tensor(new))

    def _is_new(self, mark: bytes) -> bool:
        is_new = mark not in self._seen
        self._seen.add(mark)
        return is_new


def _marks(batch: Batch) -> list[bytes]:
    """Of every sample; equal samples have equal ones.

    Raises:
        ValueError: it is not clear what the samples are.
    """
    parts = []
    for place, value in sorted(batch.places, key=lambda pair: pair[0]):
        if isinstance(value, Tensor) and value.ndim > 0 and place not in batch.shared:
            values = torch.view_as_real(value) if value.is_complex() else value
            rows = values.detach().reshape(len(value), -1)
            few = rows[:, :: max(1, rows.shape[1] // _MOST_VALUES)].double()
            parts.append(torch.cat([few, rows.sum(dim=1, keepdim=True, dtype=torch.float64)], dim=1).cpu())
    if len({len(part) for part in parts}) > 1:
        raise ValueError(_unclear(batch))
    return [hashlib.blake2b(row.numpy().tobytes(), digest_size=16).digest() for row in torch.cat(parts, dim=1)]


def _unclear(batch: Batch) -> str:
    """In words, that nobody knows what the samples of a batch are."""
    told = edges_told(batch)
    rest = f"{told}. {SEVERAL_GRAPHS}" if told else "give tensors that have the samples along their first dimension"
    return (
        f"tensors of a batch hold different numbers of samples ({tensors_told(batch)}), and none of them can be left "
        f"whole while the model is run on a part of the others: {rest}"
    )
