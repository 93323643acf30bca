"""Which calibration samples is a network tuned on, in which order, and which are held back to judge it?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from snp.graph.batch_form import kind_of
from snp.graph.batches import Batch
from snp.measure.outputs import most_remembered
from snp.measure.samples import Samples
from snp.settings import PruneSettings

__all__ = ["FEWEST_SAMPLES", "TuningSamples", "held_back", "left_to_fit", "refuse_few_to_tune", "without"]

# One sample in so many is held back, at most so many in all.
_SHARE, _MOST_HELD = 8, 256
FEWEST_SAMPLES = 2 * _SHARE


def held_back(dense: nn.Module, inputs: Sequence[Batch], seed: int) -> list[Tensor]:
    """Which samples a tuned network is judged by.

    Weights that were fitted on them would seem nearer than they are: they are fitted on the others
    (:func:`left_to_fit`).

    Args:
        dense: in evaluation mode; its outputs for these samples have to be remembered.
        inputs: calibration inputs on its device.
        seed: decides.

    Returns:
        A mask [N] per batch, on the CPU.

    Raises:
        ValueError: there are too few samples to hold some back.
    """
    sizes = [batch.size for batch in inputs]
    total = sum(sizes)
    refuse_few_to_tune(total)
    is_held = torch.zeros(total, dtype=torch.bool)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    is_held[order[: max(1, min(total // _SHARE, _MOST_HELD, most_remembered(dense, inputs[0])))]] = True
    return list(is_held.split(sizes))


def refuse_few_to_tune(num_samples: int) -> None:
    """Some can be held back to judge a tuned network by.

    Raises:
        ValueError: there are too few.
    """
    if num_samples < FEWEST_SAMPLES:
        raise ValueError(
            f"prune.reconstruct=tuned holds calibration samples back to judge by: give {FEWEST_SAMPLES} or more, "
            f"found {num_samples} that are no repeats"
        )


def left_to_fit(dense: nn.Module, samples: Samples, settings: PruneSettings) -> Samples:
    """The samples that weights are fitted on: where the network will be tuned, without those it will be judged by.

    Args:
        dense: in evaluation mode.
        samples: calibrated on, on its device.
        settings: will it be tuned, and by which seed?
    """
    if not settings.takes_steps:
        return samples
    return replace(samples, batches=without(samples.batches, held_back(dense, samples.as_given, settings.seed)))


def without(inputs: Sequence[Batch], is_held: Sequence[Tensor]) -> list[Batch]:
    """The samples that are not held back, in their batches; of mirrored pairs, both or none."""
    parts = []
    for batch, held in zip(inputs, is_held, strict=True):
        left = (~held.repeat_interleave(batch.size // len(held))).nonzero()[:, 0]
        if len(left):
            parts.append(batch.picked(left))
    return parts


class TuningSamples:
    """Calibration samples in two parts.

    Args:
        inputs: in batches; samples of different shapes are never in one batch.
        is_held: of :func:`held_back`.

    Attributes:
        held_back: batches that nothing is tuned on.
        num_held, num_tuned: samples of both parts.
        largest: samples of the largest batch given.
    """

    def __init__(self, inputs: Sequence[Batch], is_held: Sequence[Tensor]) -> None:
        self.largest = max(batch.size for batch in inputs)
        self.num_held = sum(int(held.sum()) for held in is_held)
        self.num_tuned = sum(batch.size for batch in inputs) - self.num_held
        kinds: dict[object, list[tuple[Batch, Tensor]]] = defaultdict(list)
        for batch, held in zip(inputs, is_held, strict=True):
            kinds[kind_of(batch)].append((batch, held))
        self._joined = [Batch.joined([batch for batch, _ in alike]) for alike in kinds.values()]
        parts = [torch.cat([held for _, held in alike]) for alike in kinds.values()]
        self._tuned = [(~part).nonzero()[:, 0] for part in parts]
        held_places = [(batch, part.nonzero()[:, 0]) for batch, part in zip(self._joined, parts, strict=True)]
        self.held_back = [
            piece for batch, part in held_places if len(part) for piece in batch.picked(part).split(self.largest)
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
