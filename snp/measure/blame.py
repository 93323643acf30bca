"""Which batch is to blame where calibration fails?  Batches are not tried beforehand: that would be a second pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from snp.graph.batches import Batch
from snp.graph.shared_inputs import outputs_of, tensors_told

__all__ = ["Seen"]

_MOST_KINDS = 64  # of which a sample is kept
_MOST_NAMED = 5


@dataclass(frozen=True)
class _Kind:
    """The first batch of its shapes and types: its number, its tensors in words, and one of its samples."""

    number: int
    told: str
    sample: Batch


@dataclass(frozen=True)
class _Looked:
    """Where a floating tensor was, and which of its samples hold values that are not finite, on its device.

    Attributes:
        place: its batch and where in it.
        wrong: shape [N]; of a tensor that belongs to all samples [].
    """

    place: str
    wrong: Tensor

    def told(self) -> str:
        """In words; empty where all values are finite."""
        samples = (self.wrong.reshape(-1).nonzero().flatten() + 1).tolist()
        if not samples or self.wrong.ndim == 0:
            return self.place if samples else ""
        some = ", ".join(map(str, samples[:_MOST_NAMED])) + ", ..." * (len(samples) > _MOST_NAMED)
        return f"{self.place}, sample{'s' * (len(samples) > 1)} {some} of {len(self.wrong)}"


class Seen:
    """What is remembered of every batch that was given, counted from 1: its kind, and values that are not finite.

    Which samples hold such values stays on the device until an error asks: it is not waited for.
    """

    def __init__(self) -> None:
        self._num_batches = 0
        self._kinds: dict[object, _Kind] = {}
        self._looked: list[_Looked] = []

    def noted(self, batch: Batch) -> Batch:
        """The next batch."""
        self._num_batches += 1
        tensors = [(place, value) for place, value in batch.places if isinstance(value, Tensor)]
        kind = tuple((place, value.dtype, tuple(value.shape[1:])) for place, value in tensors)
        if kind not in self._kinds:
            sample = batch.first(1).mapped(torch.clone)  # not a view, which would keep the batch in memory
            self._kinds[kind] = _Kind(self._num_batches, tensors_told(batch), sample)
            if len(self._kinds) > _MOST_KINDS:  # the first is what others are set beside, the latest are suspects
                del self._kinds[list(self._kinds)[1]]
        for place, value in tensors:
            if value.is_floating_point():
                wrong = ~torch.isfinite(value)
                is_shared = place in batch.shared or value.ndim == 0
                wrong = wrong.any() if is_shared else wrong.reshape(len(value), -1).any(dim=1)
                self._looked.append(_Looked(f"batch {self._num_batches} at {place}", wrong))
        return batch

    @contextmanager
    def blamed(self, model: nn.Module) -> Iterator[None]:
        """An error inside the ``with`` block names the batch that is to blame, if one is.

        Args:
            model: takes the batches, in evaluation mode; it is run again only behind an error.

        Raises:
            ValueError: the model does not take one of the batches, or one holds values that are not finite.
        """
        try:
            yield
        except Exception as error:
            if told := self._not_finite_told(error) or self._not_taken(model):
                raise ValueError(told) from error
            raise

    def _not_finite_told(self, error: Exception) -> str:
        if not isinstance(error, ValueError) or "finite" not in str(error):
            return ""
        found = list(islice((told for looked in self._looked if (told := looked.told())), _MOST_NAMED + 1))
        if not found:
            return ""
        more = "; ..." * (len(found) > _MOST_NAMED)
        where = str(error).partition(":")[0] if str(error).startswith("at the inputs of layer") else "in the network"
        return (
            f"NaN or infinite values came {where}, and inputs hold them: "
            f"{'; '.join(found[:_MOST_NAMED])}{more} (counted from 1): mend these samples, or leave them out"
        )

    def _not_taken(self, model: nn.Module) -> str:
        first, *others = self._kinds.values()
        for kind in others:
            try:
                outputs_of(model, kind.sample, f"batch {kind.number}")
            except ValueError as error:
                return f"{error.args[0].replace(tensors_told(kind.sample), kind.told)}; the first batch is {first.told}"
        return ""
