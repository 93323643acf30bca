"""What does a forward pass take once units are cut, by a table of measured layer times?"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

__all__ = ["LatencyTable", "LayerTimes"]

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
        constant_ms: what no cut of units changes.
        batch: samples of a pass.
        threads: CPU threads.
        device: where it was measured.
        measured: the whole network's passes that this was calibrated on, milliseconds by name; ``dense`` is one.
        corrections: the share that the parts say of whole cut networks, and what the clock said of each, both in (0, 1)
            and rising.
        graphs: were passes replayed as CUDA graphs, because launches would have hidden what a smaller network gains?
        idle_share: of a pass called layer by layer, in which the GPU waits for launches; 0 where nothing waits.
        autocast: precision of products as PyTorch calls it; empty for that of the weights.
        blocks: name of a block that can go as a whole -> what goes with it of ``constant_ms``.
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
    blocks: Mapping[str, float] = field(default_factory=dict)

    @property
    def overhead_share(self) -> float:
        """What neither a cut nor a block that goes changes of the dense network's pass, as a share of it."""
        return (self.constant_ms - sum(self.blocks.values())) / self.measured["dense"]

    def of_rest(self, layers: Mapping[str, LayerTimes], blocks: Mapping[str, float]) -> LatencyTable:
        """The table of the network without some blocks; shares are still of the whole network's time.

        Args:
            layers: those that are left.
            blocks: those that are left.
        """
        gone = sum(self.blocks.values()) - sum(blocks.values())
        return replace(self, layers=layers, blocks=blocks, constant_ms=max(0.0, self.constant_ms - gone))

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
