"""Which samples is a network calibrated on?  Those given, without repeats; of images also mirrored ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from typing import Any

from torch import Tensor, nn

from snp.graph.batch_form import parsed
from snp.graph.batches import Batch
from snp.measure.blame import Seen
from snp.measure.repeats import Repeats
from snp.measure.views import with_mirrored, without_mirrored

__all__ = ["FEW", "GivenSamples", "Samples"]

FEW = 64  # samples that tell whether mirrored images are calibrated on, too


class GivenSamples:
    """What a user gives, parsed once, batch by batch as it is asked for, without repeats.

    Args:
        model: takes them, in evaluation mode.
        batches: an iterable as the model gets them.

    Attributes:
        few: the first batches, of :data:`FEW` samples or all.
        num_batches: that are given; None where the iterable does not tell.

    Raises:
        ValueError: there is none, or one of them does not fit.
    """

    def __init__(self, model: nn.Module, batches: Iterable[Any]) -> None:
        self._repeats, self._seen = Repeats(), Seen()
        given = (self._seen.noted(batch.mapped(_usable)) for batch in parsed(model, batches))
        self._others = self._repeats.left_out_of(given)
        self.num_batches = len(batches) if isinstance(batches, Sized) else None
        self.few = list[Batch]()
        while sum(batch.size for batch in self.few) < FEW and (batch := next(self._others, None)) is not None:
            self.few.append(batch)

    def __iter__(self) -> Iterator[Batch]:
        """All of them, once."""
        return chain(self.few, self._others)

    def blamed(self, model: nn.Module) -> AbstractContextManager[None]:
        """Inside the ``with`` block an error that a batch is to blame for names it; see :meth:`Seen.blamed`."""
        return self._seen.blamed(model)

    @property
    def num_repeats(self) -> int:
        """Samples left out so far."""
        return self._repeats.num_repeats


def _usable(tensor: Tensor) -> Tensor:
    """What was made in inference mode can neither be exported nor have gradients; its copy can."""
    return tensor.clone() if tensor.is_inference() else tensor


@dataclass(frozen=True, eq=False)
class Samples:
    """What a network is calibrated on.

    Attributes:
        batches: on the network's device; none where moments are all that is asked for.
        is_mirrored: behind every image comes the same mirrored (:func:`snp.measure.views.with_mirrored`).
        num_samples: that were given, mirrored ones and repeats not among them.
        num_repeats: left out.
    """

    batches: Sequence[Batch] = ()
    is_mirrored: bool = False
    num_samples: int = 0
    num_repeats: int = 0

    @staticmethod
    def of(batches: Sequence[Batch], num_repeats: int = 0, *, mirrored: bool = False) -> Samples:
        """Batches as they were given; mirrored images are put behind theirs where that is asked for."""
        shown = [with_mirrored(batch) for batch in batches] if mirrored else batches
        return Samples(shown, mirrored, sum(batch.size for batch in batches), num_repeats)

    @property
    def as_given(self) -> Sequence[Batch]:
        """The batches without mirrored images."""
        return [without_mirrored(batch) for batch in self.batches] if self.is_mirrored else self.batches

    @property
    def facts(self) -> dict[str, int]:
        """What a plan says of them."""
        return {"samples": self.num_samples, "mirrored": self.is_mirrored, "repeats": self.num_repeats}
