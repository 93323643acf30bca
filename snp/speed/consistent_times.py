"""How do measured times become ones that a table can hold: rising with every size, and adding up to whole passes?"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["calibrated", "rising"]


def rising(ms: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    """Measured times that do not fall along rows and columns: halfway between the bounds above and below.

    A larger layer takes no less time, whatever a single measurement says, and bisection needs that.
    """
    values = torch.tensor(ms, dtype=torch.float64)
    above = values.cummax(dim=0).values.cummax(dim=1).values
    below = values.flip(0, 1).cummin(dim=0).values.cummin(dim=1).values.flip(0, 1)
    return tuple(tuple(row) for row in ((above + below) / 2).tolist())


def calibrated(
    dense_ms: float, cut_ms: float, dense_layers: float, cut_layers: float, activations: float
) -> tuple[float, float, float]:
    """Scale, activation and constant time, none below 0, that give both measured passes of the whole network.

    Args:
        dense_ms: of the dense network, measured.
        cut_ms: of a cut one, measured.
        dense_layers: sum of the dense network's layer times, at least ``cut_layers``; nothing where none is timed.
        cut_layers: sum of the cut one's.
        activations: outputs of all layers of the cut one as a share of the dense network's, at most 1.

    What layers timed alone do not explain of the difference goes to the activations. Where that is more than the whole
    takes, nothing is constant; where layers explain too much, they are scaled down. Where both fail, the dense pass is
    met alone.
    """
    saved, by_layers = max(dense_ms - cut_ms, 0.0), dense_layers - cut_layers
    beyond = (saved - by_layers) / (1 - activations) if activations < 1 else 0.0
    bend = activations * dense_layers - cut_layers
    scales = ((activations * dense_ms - cut_ms) / bend if bend else 0.0, saved / by_layers if by_layers else 0.0)
    for scale, of_activations, constant in (
        (1.0, beyond, dense_ms - dense_layers - beyond),
        (scales[0], dense_ms - scales[0] * dense_layers, 0.0),
        (scales[1], 0.0, dense_ms - scales[1] * dense_layers),
    ):
        if min(scale, of_activations, constant) >= 0:
            return scale, of_activations, constant
    return (dense_ms / dense_layers, 0.0, 0.0) if dense_layers else (1.0, dense_ms, 0.0)
