"""Do fitted weights bring the network's outputs nearer to the dense one's than plain deletion does?

Every layer's fit is chosen by what that layer sees; what counts is the output, and of few samples chance is a large
part of what each layer finds. So fits, and steps between each and deletion, are compared at the outputs: on the
calibration samples always, and where these are few by cross-validation, too (:mod:`snp.fit.folds`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn

from snp.core.sums import ALONE, Sums
from snp.fit.candidates import Candidates, Tensors
from snp.fit.folds import NUM_FOLDS, NUM_PIECES, Fold, farther_than_deletion, is_settled
from snp.graph.batch_form import numbered
from snp.graph.batches import Batch
from snp.measure.objective import Objective
from snp.measure.outputs import most_remembered
from snp.measure.visiting import STAYS, Visits
from snp.surgery.surgery import named_tensors, with_weights

__all__ = ["Outputs", "is_few"]

# Samples from which on what layers hold back says enough.
_MANY = 128
# Distances may differ by so much and be equal.
_ROUNDING = 1e-6


def is_few(num_samples: float) -> bool:
    """Are there so few samples that the outputs are asked for samples held back, too?"""
    return num_samples < _MANY


_Fit = Callable[[Sequence[Batch]], Candidates]
_Deal = Callable[[Sequence[int], Callable[[int], Fold]], list[Fold]]


@dataclass(frozen=True, eq=False)
class Outputs:
    """What candidates are judged by.

    Attributes:
        model: the dense network.
        objective: how far outputs are apart.
        sums: over all processes.
        group: so many neighbouring samples say the same (2: an image and its mirrored one) and are held back together.
        visits: which blocks of the networks are moved where to be run.
    """

    model: nn.Module
    objective: Objective
    sums: Sums = ALONE
    group: int = 1
    visits: Visits = STAYS

    def distances(self, candidates: Candidates, inputs: Sequence[Batch], numbers: Sequence[int] = ()) -> Tensor:
        """Of candidates, by default all, from the dense network: mean over samples, float64; its own is 0."""
        (found,) = self._of_parts(candidates, [inputs], numbers)
        return found

    def _of_parts(
        self, candidates: Candidates, parts: Sequence[Sequence[Batch]], numbers: Sequence[int] = ()
    ) -> Tensor:
        """The same of several parts of the samples, shape [parts, candidates]."""
        asked = numbers or range(len(candidates))
        found = torch.zeros(len(parts), len(asked), dtype=torch.float64)
        with torch.no_grad():
            first = {name: value.clone() for name, value in candidates.tensors(asked[0], self.model).items()}
            other = with_weights(self.model, first, share=True)  # one network, which gets one candidate after the other
            slots = named_tensors(other)
            for places, batches in self._remembered(parts):
                with self.visits.of(self.model):
                    dense = [batch.call(self.model) for batch in batches]
                for part, batch, outputs in zip(places, batches, dense, strict=True):
                    found[part] -= self._start(outputs, batch)
                for place, number in enumerate(asked):
                    for name, value in candidates.tensors(number, self.model).items():
                        slots[name].copy_(value)
                    with self.visits.of(other):
                        for part, batch, outputs in zip(places, batches, dense, strict=True):
                            found[part, place] += self._distance(other, outputs, batch)
        sizes = [self.sums.number(sum(batch.size for batch in part)) for part in parts]
        return self.sums.of(found) / torch.tensor(sizes, dtype=torch.float64)[:, None]

    def _remembered(self, parts: Sequence[Sequence[Batch]]) -> Iterator[tuple[list[int], list[Batch]]]:
        """Numbers of parts and their batches, as many at a time as the dense outputs may be remembered of."""
        places, batches, most = list[int](), list[Batch](), 0
        for part, batch in ((part, batch) for part, inside in enumerate(parts) for batch in inside):
            with self.visits.of(self.model) if not most else nullcontext():
                most = most or most_remembered(self.model, batch)
            if batches and sum(each.size for each in batches) + batch.size > most:
                yield places, batches
                places, batches = [], []
            places.append(part)
            batches.append(batch)
        if batches:
            yield places, batches

    def _distance(self, other: nn.Module, dense: object, batch: Batch) -> float:
        try:
            return self.objective.distance(dense, batch.call(other), batch)
        except ValueError:  # of another shape, or not finite: nothing can be farther
            return torch.inf

    def _start(self, dense: object, batch: Batch) -> float:
        """Where a function of the user's begins, as a negative cosine does at minus one."""
        try:
            return 0.0 if self.objective.function is None else self.objective.distance(dense, dense, batch)
        except ValueError:
            return 0.0

    def serves(self, candidates: Candidates, inputs: Sequence[Batch]) -> bool:
        """Is the first fit, as it is, no farther from the dense network than deletion?"""
        fitted, deleted = self.distances(candidates, inputs, (0, len(candidates) - 1))
        return bool(fitted <= deleted * (1 + _ROUNDING))

    def best(self, candidates: Candidates, inputs: Sequence[Batch]) -> Tensors:
        """The nearest one."""
        return candidates.tensors(int(self.distances(candidates, inputs).argmin()), self.model)

    def best_of_few(
        self, candidates: Candidates, inputs: Sequence[Batch], fit: _Fit, deal: _Deal | None = None, at_once: int = 1
    ) -> Tensors:
        """Of those that are no farther than deletion the one that serves samples best that it was not fitted on.

        Args:
            candidates: of all samples.
            inputs: these, all on one process.
            fit: gives the same candidates of some samples.
            deal: has folds worked on, by their numbers; by default one after the other.
            at_once: so many, where it takes no longer than one; what is taken does not depend on it.
        """
        deletion = len(candidates) - 1
        seen_of_deletion = self.distances(candidates, inputs, (deletion,))
        if not bool(seen_of_deletion.isfinite()):  # what it does cannot be told
            return candidates.tensors(0, self.model)
        work = partial(self.fold, inputs, fit)
        folds = _folds(len(candidates), lambda some: deal(some, work) if deal else [*map(work, some)], at_once)
        unseen = farther_than_deletion(folds, len(candidates))
        # From the one that served best on, until one is no farther: the others need not be run on all samples.
        for number in unseen.argsort(stable=True).tolist():
            if number == deletion or bool(
                self.distances(candidates, inputs, (number,)) <= seen_of_deletion * (1 + _ROUNDING)
            ):
                break
        return candidates.tensors(number, self.model)

    def fold(self, inputs: Sequence[Batch], fit: _Fit, number: int) -> Fold:
        """How far candidates that were fitted on the other folds are on every part of this one, and its samples."""
        pieces = [self._some(inputs, {(number, piece)}) for piece in range(NUM_PIECES)]
        others = self._some(inputs, set(product({*range(NUM_FOLDS)} - {number}, range(NUM_PIECES))))
        if not pieces[0] or not others:
            return []
        there = [piece for piece in pieces if piece]
        sizes = [sum(batch.size for batch in piece) for piece in there]
        return list(zip(sizes, self._of_parts(fit(others), there).tolist(), strict=True))

    def _some(self, inputs: Sequence[Batch], places: Set[tuple[int, int]]) -> list[Batch]:
        """The samples of some pieces of folds; groups are dealt out in turn, through all batches."""
        groups = [number // self.group for number in range(sum(batch.size for batch in inputs))]
        picked = [n for n, g in enumerate(groups) if (g % NUM_FOLDS, g // NUM_FOLDS % NUM_PIECES) in places]
        return numbered(inputs, torch.tensor(picked, dtype=torch.long), inputs[0].size)


def _folds(num_candidates: int, work: Callable[[Sequence[int]], list[Fold]], at_once: int) -> list[Fold]:
    """The first folds that settle it, or all."""
    found: list[Fold] = []
    for number in range(NUM_FOLDS):
        if number == len(found):
            found += work(range(number, min(number + at_once, NUM_FOLDS)))
        if is_settled(found[: number + 1], num_candidates):
            return found[: number + 1]
    return found
