"""Which calibration samples is a network tuned on, in which order, and which are held back to judge it?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch

from snp.graph.batch_form import kind_of
from snp.graph.batches import Batch

__all__ = ["FEWEST_SAMPLES", "TuningSamples"]

# One sample in so many is held back, at most so many in all.
_SHARE, _MOST_HELD = 8, 256
FEWEST_SAMPLES = 2 * _SHARE


class TuningSamples:
    """Calibration samples in two parts.

    Args:
        inputs: in batches; samples of different shapes are never in one batch.
        most_held: that may be held back.
        generator: decides which are, on the CPU.

    Attributes:
        held_back: batches that nothing is tuned on.
        num_held, num_tuned: samples of both parts.
        largest: samples of the largest batch given.

    Raises:
        ValueError: there are too few to hold some back.
    """

    def __init__(self, inputs: Sequence[Batch], most_held: int, generator: torch.Generator) -> None:
        total = sum(batch.size for batch in inputs)
        if total < FEWEST_SAMPLES:
            raise ValueError(
                f"prune.reconstruct=tuned holds calibration samples back to judge by: give {FEWEST_SAMPLES} or more, "
                f"found {total}"
            )
        self.largest = max(batch.size for batch in inputs)
        self.num_held = max(1, min(total // _SHARE, _MOST_HELD, most_held))
        self.num_tuned = total - self.num_held
        is_held = torch.zeros(total, dtype=torch.bool)
        is_held[torch.randperm(total, generator=generator)[: self.num_held]] = True
        kinds: dict[object, list[Batch]] = defaultdict(list)
        for batch in inputs:
            kinds[kind_of(batch)].append(batch)
        self._joined = [Batch.joined(alike) for alike in kinds.values()]
        parts = is_held.split([batch.size for batch in self._joined])
        self._tuned = [(~part).nonzero()[:, 0] for part in parts]
        held = [(batch, part.nonzero()[:, 0]) for batch, part in zip(self._joined, parts, strict=True)]
        self.held_back = [
            piece for batch, part in held if len(part) for piece in batch.picked(part).split(self.largest)
        ]

    def num_batches(self, size: int) -> int:
        """Batches of an epoch."""
        return sum(-(-len(part) // size) for part in self._tuned)

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """The samples that are tuned on, each once, in batches of at most ``size``."""
        pieces = [
            (number, piece)
            for number, part in enumerate(self._tuned)
            for piece in part[torch.randperm(len(part), generator=generator)].split(size)
            if len(piece)
        ]
        for place in torch.randperm(len(pieces), generator=generator).tolist():
            number, piece = pieces[place]
            yield self._joined[number].picked(piece)
