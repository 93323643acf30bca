"""How much farther from the dense network than deletion are weights on samples that they were not fitted on?

By cross-validation (Stone 1974); in doubt for deletion by standard errors, as Breiman et al. 1984 choose the smaller
tree.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["NUM_FOLDS", "NUM_PIECES", "Fold", "farther_than_deletion", "is_settled"]

NUM_FOLDS = 4
# Parts of a fold whose differences say how much of them is chance.
NUM_PIECES = 4
# Share of deletion's mean distance that says nothing: where deletion does no harm to a sample, ratios have no end.
_NOTHING = 0.01

# Of one fold all parts were judged by the same fit.
_FEWEST_FOLDS = 2
# Logarithm of a ratio of distances that nobody misses.
_LITTLE = 0.05

# Of every part of a fold: its number of samples, and distances of the candidates.
Fold = list[tuple[int, list[float]]]


def farther_than_deletion(folds: Sequence[Fold], num_candidates: int) -> Tensor:
    """Mean logarithm of distances beside deletion's and its standard error; infinite for what is farther, 0 for it.

    Args:
        folds: all of them.
        num_candidates: deletion is the last.

    Returns:
        Shape [num_candidates], float64.
    """
    sizes, distances = _parts(folds)
    if len(sizes) < 2:  # nothing is known but what deletion does
        return torch.tensor([*[torch.inf] * (num_candidates - 1), 0.0], dtype=torch.float64)
    return _with_chance(distances, sizes)


def is_settled(folds: Sequence[Fold], num_candidates: int) -> bool:
    """Is it beyond doubt already that no candidate is nearer by 5 % than the one these folds are for?

    Args:
        folds: the first ones.
        num_candidates: deletion is the last.
    """
    sizes, distances = _parts(folds)
    if len(folds) < _FEWEST_FOLDS or len(sizes) < 2:
        return False
    ratios = _beside_deletion(distances, sizes)
    taken = int(farther_than_deletion(folds, num_candidates).argmin())
    behind = ratios - ratios[:, taken : taken + 1]
    return bool((behind.mean(dim=0) - _chance(behind) > -_LITTLE).all())


def _parts(folds: Sequence[Fold]) -> tuple[Tensor, Tensor]:
    """Sizes [P] and distances [P, candidates] of all parts, float64."""
    parts = [part for fold in folds for part in fold]
    sizes, distances = (torch.tensor([part[place] for part in parts], dtype=torch.float64) for place in (0, 1))
    return sizes, distances


def _beside_deletion(distances_PC: Tensor, sizes_P: Tensor) -> Tensor:
    """Logarithms of distances in every part, less that of deletion."""
    whole = _whole(distances_PC, sizes_P)
    apart = distances_PC.clamp(min=0) + _NOTHING * whole[-1] + torch.finfo(whole.dtype).tiny
    return (apart / apart[:, -1:]).log()


def _whole(distances_PC: Tensor, sizes_P: Tensor) -> Tensor:
    return (sizes_P[:, None] * distances_PC).sum(dim=0) / sizes_P.sum()


def _chance(logarithms_PC: Tensor) -> Tensor:
    """Standard errors of their means; the fewer parts, the less these know of their own spread."""
    caution = (NUM_FOLDS * NUM_PIECES / len(logarithms_PC)) ** 1.5
    return caution * logarithms_PC.std(dim=0) / len(logarithms_PC) ** 0.5


def _with_chance(distances_PC: Tensor, sizes_P: Tensor) -> Tensor:
    """Mean logarithm of distances beside deletion's (the last), and standard errors; infinite where deletion is better.

    A ratio counts alike in parts with large errors and with small ones: so a few of them already tell chance. On the
    whole, which few samples with large errors may decide, nothing may be farther than deletion either. What changed
    nothing in the parts has shown nothing.

    Args:
        distances_PC: of every candidate in every part, mean over its samples.
        sizes_P: of the parts.
    """
    whole, ratios = _whole(distances_PC, sizes_P), _beside_deletion(distances_PC, sizes_P)
    found = ratios.mean(dim=0) + _chance(ratios)
    found = torch.where((whole <= whole[-1]) & (found < 0), found, torch.inf)
    found[-1] = 0.0
    return found
