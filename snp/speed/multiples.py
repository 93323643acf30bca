"""Which multiples of units pay on this device?  Layers of the network are timed at widths of every kind, once.

For every width of a group the layer that computes most is timed alone near half of that width: at odd multiples of 1,
2, 4, ..., 64, one below and one above the same middle, so that time which grows evenly with the width says the same of
all. Times are kept on disk; what is chosen by them is a power of two (:func:`snp.core.rounding.best_rounding`).
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from snp.core.rounding import MULTIPLES, best_rounding, fits
from snp.graph.batches import Batch
from snp.graph.units import Slice
from snp.settings import PruneSettings
from snp.speed.graphs import queued
from snp.speed.kept_times import add_times, kept_times
from snp.speed.layers import Layer, called_layers, device_name
from snp.speed.timing import NUM_WARMUP, time_in_turns
from snp.surgery.subject import Subject

__all__ = ["Place", "precision_of", "with_measured_rounding"]

_MOST_KINDS = 6
_SECONDS = 1.8  # for all of them, on a CPU
_ROUNDS = 3  # at least
_NARROW = 8  # units, that nobody rounds


@dataclass(frozen=True)
class Place:
    """Where and how a network is to run.

    Attributes:
        device: of the passes.
        precision: of weights and activations.
        batch: samples of a pass.
        threads: CPU threads.
        table: file of what was measured; None keeps nothing.
    """

    device: torch.device
    precision: torch.dtype
    batch: int = 8
    threads: int = 1
    table: Path | None = None

    @property
    def name(self) -> str:
        """What measured times belong to."""
        threads = f"{self.threads} threads" if self.device.type == "cpu" else f"CUDA {torch.version.cuda}"
        precision = str(self.precision).removeprefix("torch.")
        return f"{device_name(self.device)}, {precision}, torch {torch.__version__}, {threads}"


def precision_of(model: nn.Module) -> torch.dtype:
    """In which precision a network runs where no autocast changes it."""
    weights = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return next(weights, torch.get_default_dtype())


@dataclass(frozen=True, eq=False)
class _Kind:
    """A layer that stands for all that make or read units of groups as wide as one of its sides.

    Attributes:
        layer: with the inputs that it gets of the example.
        dim: of its weight, along which the units lie.
        other: size of the other dimension while it is timed.
        macs: multiply-accumulates of the layer per sample.
        weight: those of all layers that it stands for, over its own.
    """

    layer: Layer
    dim: int
    other: int
    macs: int
    weight: float = 1.0

    @property
    def num_units(self) -> int:
        weight: Any = self.layer.module.weight
        return int(weight.shape[self.dim])

    def text(self, num_samples: float) -> str:
        """What it is, in words, with so many times its samples: layers of one text take the same time."""
        shape = (round(num_samples * len(self.layer.inputs)), *self.layer.inputs.shape[1:])
        side = "inputs" if self.dim else "outputs"
        return f"{self.layer.module} of {' x '.join(map(str, shape))}, {side} cut beside {self.other}"

    def resized(self, layer: Layer, width: int) -> Callable[[], object]:
        """A call of the layer with so many units."""
        return layer.resized(self.other, width) if self.dim else layer.resized(width, self.other)


def with_measured_rounding(
    settings: PruneSettings, subject: Subject, example: Batch, place: Place
) -> tuple[PruneSettings, dict[str, Any]]:
    """The settings with numbers in the place of ``round_to="auto"``, and what was found, for ``plan.json``.

    Args:
        settings: of the prune.
        subject: the dense network, wherever it is; it is not moved.
        example: some samples beside it.
        place: where it will run.

    Returns:
        The settings, and ``multiples``: width of groups -> the multiple that is best for them alone.
    """
    if settings.round_to != "auto":
        return settings, {}
    kinds, more = _kinds(subject, example), place.batch / example.size
    known, texts = kept_times(place.table, place.name), [kind.text(more) for kind in kinds]
    unknown = {text: kind for text, kind in zip(texts, kinds, strict=True) if text not in known}
    new = {text: _times(kind, place, more, _SECONDS / len(unknown)) for text, kind in unknown.items()}
    add_times(place.table, place.name, new)
    layers = [(kind.num_units, kind.weight, (known | new)[text]) for text, kind in zip(texts, kinds, strict=True)]
    best = best_rounding(layers, settings.round_from)
    alone = {str(units): best_rounding([(units, weight, times)]).multiple for units, weight, times in layers}
    return replace(settings, round_to=best.multiple, round_from=best.wide), {"multiples": alone}


def _kinds(subject: Subject, example: Batch) -> list[_Kind]:
    """Of every width that groups have the layer that computes most, those first that stand for most."""
    costs, resized = subject.costs, subject.costs.resized_weights
    layers, macs = called_layers(subject.model, example, resized), costs.layers(costs.dense)
    members: dict[int, list[Slice]] = defaultdict(list)
    for group in subject.groups:
        members[group.num_units] += [
            member for member in group.producers + group.consumers if _is_whole_side(member, layers)
        ]
    found = []
    for sides in members.values():
        if not sides:
            continue
        one, total = max(sides, key=lambda side: macs[side.tensor][1]), sum(macs[side.tensor][1] for side in sides)
        (shape, own), other = macs[one.tensor], 1 - one.dim
        size = max(1, shape[other] // 2) if other in resized[one.tensor] else shape[other]
        found.append(_Kind(layers[one.tensor], one.dim, size, own, total / own))
    return sorted(found, key=lambda kind: -kind.weight * kind.macs)[:_MOST_KINDS]


def _is_whole_side(member: Slice, layers: Mapping[str, Layer]) -> bool:
    """Are the units all that lie along one dimension of a layer's weight, wide enough to be rounded?"""
    if member.tensor not in layers or member.dim > 1 or member.width != 1 or len(member.index) < _NARROW:
        return False
    module: Any = layers[member.tensor].module
    is_depthwise = getattr(module, "groups", 1) == module.weight.shape[0]
    is_plain = not getattr(module, "transposed", False) and (getattr(module, "groups", 1) == 1 or is_depthwise)
    return bool(is_plain and len(member.index) == module.weight.shape[member.dim])


def _times(kind: _Kind, place: Place, more: float, seconds: float) -> dict[int, float]:
    """Seconds of a call by multiple, medians of calls in turns.

    Args:
        kind: what is timed.
        place: where.
        more: times the samples that its inputs have; on a CPU, where the multiples do not depend on it, as many as the
            time allows.
        seconds: that this may take, about.
    """
    multiples = [multiple for multiple in MULTIPLES if fits(multiple, kind.num_units)]
    step = 2 * multiples[-1]
    middle = max(1, round(kind.num_units / 2 / step)) * step
    widths = [middle + sign * multiple for multiple in multiples for sign in (-1, 1)]
    if place.device.type == "cpu":
        single = kind.layer.of(1 / len(kind.layer.inputs), place.device, place.precision)
        found = time_in_turns(
            {"call": kind.resized(single, middle)}, num_threads=place.threads, min_rounds=1, min_seconds=0
        )
        most = seconds / (NUM_WARMUP + _ROUNDS) / len(widths) / min(found["call"].own)
        more = min(more, max(1.0, most) / len(kind.layer.inputs))
    layer = kind.layer.of(more, place.device, place.precision)
    queues = {str(width): queued(kind.resized(layer, width), place.device) for width in widths}
    times = time_in_turns(
        {name: queue.call for name, queue in queues.items()},
        num_threads=place.threads,
        device=place.device,
        min_rounds=_ROUNDS,
        min_seconds=seconds / 2,
    )
    median = {name: statistics.median(found.own) / queues[name].length for name, found in times.items()}
    return {multiple: (median[str(middle - multiple)] + median[str(middle + multiple)]) / 2 for multiple in multiples}
