"""What does a forward pass take once units are cut, by a table of measured layer times?"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

__all__ = ["LatencyTable", "LayerTimes", "calibrated", "rising"]

_HARDLY_FASTER = 0.999


@dataclass(frozen=True)
class LayerTimes:
    """One layer, timed alone at a few widths.

    Attributes:
        rows: sizes of the weight's first dimension (outputs), ascending, R of them.
        columns: sizes of its second dimension (inputs of one convolution group), ascending, C of them.
        ms: milliseconds per call of a batch, R x C, not falling along either dimension.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]

    def at(self, rows: int, columns: int) -> float:
        """Milliseconds at a size of the weight, linear between measured ones and to nothing at size 0."""
        (row, down), (column, right) = _place(self.rows, rows), _place(self.columns, columns)
        corners = [[self._value(row + i, column + j) for j in (0, 1)] for i in (0, 1)]
        upper, lower = ((1 - right) * first + right * second for first, second in corners)
        return (1 - down) * upper + down * lower

    def _value(self, row: int, column: int) -> float:
        # Below the smallest size measured the way leads to nothing; a size that never changes stands alone.
        return (
            0.0 if row < 0 or column < 0 else self.ms[min(row, len(self.rows) - 1)][min(column, len(self.columns) - 1)]
        )


def _place(sizes: Sequence[int], size: int) -> tuple[int, float]:
    """Index of the largest measured size not above, -1 for none, and the way to the next one in [0, 1)."""
    index = bisect_right(sizes, size) - 1
    if index == len(sizes) - 1:
        return index, 0.0
    low, high = (sizes[index] if index >= 0 else 0), sizes[index + 1]
    return index, (size - low) / (high - low)


@dataclass(frozen=True)
class LatencyTable:
    """Layer times of one network on one machine.

    A pass takes ``dense * corrected(sum / dense)``, where ``dense`` is the time of the dense network, the sum
    ``scale * layers + activation_ms * activations + constant_ms``, and the correction goes in straight lines through
    (0, 0), what was measured of whole cut networks, and (1, 1).

    Attributes:
        layers: weight name -> times of its layer.
        scale: of the sum of the layers.
        activation_ms: what norms, activation functions and memory take in the dense network, in proportion to the
            outputs of all layers.
        constant_ms: what no cut changes.
        batch: samples of a pass.
        threads: CPU threads.
        device: where it was measured.
        measured: the whole network's passes that this was calibrated on, milliseconds by name; ``dense`` is one.
        corrections: the share that the parts say of whole cut networks, and what the clock said of each, both in (0, 1)
            and rising.
        graphs: were passes replayed as CUDA graphs, because launches would have hidden what a smaller network gains?
        idle_share: of a pass called layer by layer, in which the GPU waits for launches; 0 where nothing waits.
        autocast: precision of products as PyTorch calls it; empty for that of the weights.
    """

    layers: Mapping[str, LayerTimes]
    scale: float
    activation_ms: float
    constant_ms: float
    batch: int
    threads: int
    device: str
    measured: Mapping[str, float]
    corrections: tuple[tuple[float, float], ...] = ()
    graphs: bool = False
    idle_share: float = 0.0
    autocast: str = ""

    @property
    def overhead_share(self) -> float:
        """What no cut changes of the dense network's pass, as a share of it."""
        return self.constant_ms / self.measured["dense"]

    def share(self, sizes: Mapping[str, tuple[int, int]], activations: float) -> float:
        """What the parts say of a pass, as a share of the dense one's, before the correction; as :meth:`total_ms`."""
        parts = self.constant_ms + self.activation_ms * activations + self.scale * self.layers_ms(sizes)
        return float(parts / self.measured["dense"])

    def total_ms(self, sizes: Mapping[str, tuple[int, int]], activations: float) -> float:
        """Milliseconds of a pass.

        Args:
            sizes: weight name -> sizes of its first two dimensions.
            activations: outputs of all layers, as a share of the dense network's.
        """
        share, points = self.share(sizes, activations), ((0.0, 0.0), *self.corrections, (1.0, 1.0))
        index = min(bisect_right(points, (share, math.inf)), len(points) - 1)
        (left, low), (right, high) = points[index - 1], points[index]
        return self.measured["dense"] * (low + (high - low) * (share - left) / (right - left))

    def corrected(self, share: float, measured: float) -> LatencyTable:
        """The table that says of one cut network what was measured, and of the dense one what it said before.

        What was measured earlier stays where it does not contradict: more by the parts is more by the clock, so that
        the table still rises with every layer.

        Args:
            share: of the dense network's time by the parts, in (0, 1); see :meth:`share`.
            measured: share by the clock, above 0; what is no faster than the dense network counts as hardly faster.
        """
        assert 0 < share < 1, share
        point = (share, min(measured, _HARDLY_FASTER))
        others = (other for other in self.corrections if (other[0] < point[0]) == (other[1] < point[1]))
        rising = {other for other in others if other[0] != point[0] and other[1] != point[1]} | {point}
        return replace(self, corrections=tuple(sorted(rising)))

    def layers_ms(self, sizes: Mapping[str, tuple[int, int]]) -> float:
        """Milliseconds of all layers of the table, timed alone."""
        return sum(times.at(*sizes[name]) for name, times in self.layers.items())

    def to_json(self) -> str:
        """Text of ``latency.json``."""
        return json.dumps(asdict(self)) + "\n"

    @staticmethod
    def from_json(text: str) -> LatencyTable:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: the text is something else.
        """
        try:
            plain: dict[str, Any] = json.loads(text)
            layers = {
                name: LayerTimes(
                    tuple(entry["rows"]), tuple(entry["columns"]), tuple(tuple(row) for row in entry["ms"])
                )
                for name, entry in plain.pop("layers").items()
            }
            corrections = tuple((float(share), float(found)) for share, found in plain.pop("corrections"))
            return LatencyTable(layers, corrections=corrections, **plain)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"latency.json is damaged or not a table of layer times: {error}") from error


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
        dense_layers: sum of the dense network's layer times, above ``cut_layers``.
        cut_layers: sum of the cut one's.
        activations: outputs of all layers of the cut one as a share of the dense network's, below 1.

    What layers timed alone do not explain of the difference goes to the activations. Where that is more than the whole
    takes, nothing is constant; where layers explain too much, they are scaled down. Where both fail, the dense pass is
    met alone.
    """
    saved, by_layers = max(dense_ms - cut_ms, 0.0), dense_layers - cut_layers
    beyond = (saved - by_layers) / (1 - activations)
    bend = activations * dense_layers - cut_layers
    scales = ((activations * dense_ms - cut_ms) / bend if bend else 0.0, saved / by_layers)
    for scale, of_activations, constant in (
        (1.0, beyond, dense_ms - dense_layers - beyond),
        (scales[0], dense_ms - scales[0] * dense_layers, 0.0),
        (scales[1], 0.0, dense_ms - scales[1] * dense_layers),
    ):
        if min(scale, of_activations, constant) >= 0:
            return scale, of_activations, constant
    return dense_ms / dense_layers, 0.0, 0.0
