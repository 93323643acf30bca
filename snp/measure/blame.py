"""Which batch is to blame where calibration fails?  Batches are not tried beforehand: that would be a second pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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


class Seen:
    """What is remembered of every batch that was given, counted from 1: its kind, and values that are not finite."""

    def __init__(self) -> None:
        self._num_batches = 0
        self._kinds: dict[object, _Kind] = {}
        self._not_finite: list[str] = []

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
            if value.is_floating_point() and len(self._not_finite) <= _MOST_NAMED:
                self._note_not_finite(place, value, is_shared=place in batch.shared or value.ndim == 0)
        return batch

    def _note_not_finite(self, place: str, value: Tensor, *, is_shared: bool) -> None:
        wrong = ~torch.isfinite(value)
        if not bool(wrong.any()):
            return
        told = f"batch {self._num_batches} at {place}"
        if not is_shared:
            samples = wrong.reshape(len(value), -1).any(dim=1).nonzero().flatten() + 1
            some = ", ".join(map(str, samples[:_MOST_NAMED].tolist()))
            told += f", sample{'s' * (len(samples) > 1)} {some}" + ", ..." * (len(samples) > _MOST_NAMED)
            told += f" of {len(value)}"
        self._not_finite.append(told)

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
        if not self._not_finite or not isinstance(error, ValueError) or "finite" not in str(error):
            return ""
        more = "; ..." * (len(self._not_finite) > _MOST_NAMED)
        where = str(error).partition(":")[0] if str(error).startswith("at the inputs of layer") else "in the network"
        return (
            f"NaN or infinite values came {where}, and inputs hold them: "
            f"{'; '.join(self._not_finite[:_MOST_NAMED])}{more} (counted from 1): mend these samples, or leave them out"
        )

    def _not_taken(self, model: nn.Module) -> str:
        first, *others = self._kinds.values()
        for kind in others:
            try:
                outputs_of(model, kind.sample, f"batch {kind.number}")
            except ValueError as error:
                return f"{error.args[0].replace(tensors_told(kind.sample), kind.told)}; the first batch is {first.told}"
        return ""
