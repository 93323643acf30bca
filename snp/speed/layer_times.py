"""How long do the layers of a network take on this machine, alone at a few widths and all together?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from snp.graph.batches import Batch, device_of
from snp.graph.units import UnitGroup
from snp.measure.exact import torch_attention
from snp.plan.costs import CostModel
from snp.plan.latency_table import LatencyTable, LayerTimes
from snp.plan.plan import GroupPlan, PruningPlan
from snp.speed.block_times import blocks_alike, with_block_times
from snp.speed.consistent_times import calibrated, rising
from snp.speed.graphs import queued
from snp.speed.layers import Layer, called_layers, device_name
from snp.speed.passes import Conditions, Passes, passes_in_turns
from snp.speed.timing import time_in_turns
from snp.surgery.subject import Subject
from snp.surgery.surgery import cut

__all__ = ["measure_table", "measured_share"]

_SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)
_LAYER_SECONDS = 0.02
_NETWORK_SECONDS = 1.0
_NETWORK_ROUNDS = 11


def measure_table(subject: Subject, example: Batch, conditions: Conditions) -> LatencyTable:
    """Time every layer whose size a cut changes, then the dense network and one cut to halves, and put them together.

    Where blocks can go as a whole, networks without those of one kind are timed, too.

    The least of several measurements counts: what disturbs a measurement only makes it longer. For the same reason time
    in which other programs have the core is left out, where one CPU thread works.

    Args:
        subject: the dense network.
        example: some samples on its device, repeated up to the batch size.
        conditions: of the passes.
    """
    model, groups, graph = subject.model, subject.groups, subject.graph
    inputs, costs = example.repeated(conditions.batch), subject.costs
    times = _times_of(called_layers(model, inputs, costs.resized_weights), costs.resized_weights, conditions)
    half = [_half(group) for group in groups]
    models = {"dense": model, "half": cut(model, PruningPlan(tuple(half), attention=graph.attention))}
    kinds = blocks_alike(subject)
    passes = _passes(models | {kind.name: kind.taken_out_of(model) for kind in kinds}, inputs, conditions)
    whole = {name: 1e3 * min(found.own) for name, found in passes.times.items()}
    raw = LatencyTable(
        times,
        scale=1.0,
        activation_ms=0.0,
        constant_ms=0.0,
        batch=conditions.batch,
        threads=conditions.threads,
        device=device_name(subject.device),
        measured=whole,
        graphs=passes.graphs,
        idle_share=passes.idle,
        autocast=str(conditions.autocast or "").removeprefix("torch."),
    )
    table = _meeting_both(raw, costs, [len(group.kept) for group in half])
    return with_block_times(CostModel(model, graph, groups, table), kinds)


def _meeting_both(raw: LatencyTable, costs: CostModel, kept: Sequence[int]) -> LatencyTable:
    """The table that says what was measured of the dense network and of the one cut to that many units."""
    whole, times = raw.measured, raw.layers
    activations = costs.activations(kept) / costs.activations(costs.dense)
    sums = [raw.layers_ms(costs.sizes(numbers, times)) for numbers in (costs.dense, kept)]
    scale, of_activations, constant = calibrated(whole["dense"], whole["half"], sums[0], sums[1], activations)
    table = replace(raw, scale=scale, activation_ms=of_activations, constant_ms=constant)
    share = table.share(costs.sizes(kept, times), activations)
    return table.corrected(share, whole["half"] / whole["dense"]) if share < 1 else table


def measured_share(dense: nn.Module, small: nn.Module, example: Batch, conditions: Conditions) -> dict[str, float]:
    """What the small network's pass takes of the dense one's, measured in turns.

    Args:
        dense: in evaluation mode.
        small: on the same device, in evaluation mode.
        example: some samples on that device, repeated up to the batch size.
        conditions: of the passes; those of a table of layer times, for comparison with it.

    Returns:
        ``measured_share``, the ratio of the median times; ``measured_share_low`` and ``_high``, the quartiles of the
        ratios of neighbouring passes; ``own_share``, the ratio of the shortest passes without the time of other
        programs (:class:`snp.speed.timing.Durations`); ``dense_ms`` and ``pruned_ms``, the medians; ``passes``;
        ``graphs``, 1 where CUDA graphs were replayed, and ``idle_share`` (:class:`snp.speed.passes.Passes`), unless the
        conditions leave graphs out, so that nobody looks how long the GPU waits.
    """
    found = _passes({"dense": dense, "pruned": small}, example.repeated(conditions.batch), conditions)
    seconds = found.times
    dense_s, pruned_s = (torch.tensor(seconds[name].wall, dtype=torch.float64) for name in ("dense", "pruned"))
    low, high = (pruned_s / dense_s).quantile(torch.tensor([0.25, 0.75], dtype=torch.float64)).tolist()
    return {
        "dense_ms": 1e3 * float(dense_s.quantile(0.5)),
        "pruned_ms": 1e3 * float(pruned_s.quantile(0.5)),
        "measured_share": float(pruned_s.quantile(0.5) / dense_s.quantile(0.5)),
        "measured_share_low": low,
        "measured_share_high": high,
        "own_share": min(seconds["pruned"].own) / min(seconds["dense"].own),
        "passes": len(dense_s),
        "graphs": float(found.graphs),
    } | ({} if conditions.graphs is False else {"idle_share": found.idle})


def _passes(models: dict[str, nn.Module], inputs: Batch, conditions: Conditions) -> Passes:
    assert not any(model.training for model in models.values()), "networks are timed as they are evaluated"
    device = device_of(next(iter(models.values())))
    with torch_attention(is_fused=True):  # as whoever uses them will run them
        return passes_in_turns(
            {name: conditions.applied(partial(inputs.call, model), device) for name, model in models.items()},
            device=device,
            num_threads=conditions.threads,
            min_rounds=_NETWORK_ROUNDS,
            min_seconds=_NETWORK_SECONDS,
            graphs=conditions.graphs,
        )


def _half(group: UnitGroup) -> GroupPlan:
    """Every second unit of each partition, at least one."""
    per_partition = group.num_units // group.num_partitions
    first = torch.arange(group.num_partitions)[:, None] * per_partition
    return GroupPlan(group, (first + torch.arange(max(1, per_partition // 2))).flatten())


def _times_of(
    layers: Mapping[str, Layer], dims_of: Mapping[str, tuple[int, ...]], conditions: Conditions
) -> dict[str, LayerTimes]:
    """Of layers that are alike one is timed."""
    times: dict[str, LayerTimes] = {}
    known: dict[tuple[object, ...], LayerTimes] = {}
    for name, layer in layers.items():
        dims = dims_of[name]
        key = (repr(layer.module), tuple(layer.inputs.shape), dims, layer.num_calls)
        if key not in known:
            known[key] = _layer_times(layer, dims, conditions)
        times[name] = known[key]
    return times


def _layer_times(layer: Layer, dims: tuple[int, ...], conditions: Conditions) -> LayerTimes:
    """Times at every combination of a few sizes of the dimensions that cuts change."""
    weight: Any = layer.module.weight
    # Rows of a grouped convolution fall into equal blocks.
    blocks = getattr(layer.module, "groups", 1)
    is_depthwise = blocks > 1 and weight.shape[1] == 1
    rows = _sizes(weight.shape[0], 1 if is_depthwise else blocks) if 0 in dims else (weight.shape[0],)
    columns = _sizes(weight.shape[1], 1) if 1 in dims else (weight.shape[1],)
    ms = [[_milliseconds(layer, row, column, conditions) for column in columns] for row in rows]
    return LayerTimes(rows, columns, rising(ms))


def _sizes(size: int, multiple: int) -> tuple[int, ...]:
    """A few shares of a size, in multiples of eight where it is wide: odd widths take as long as the next even one."""
    step = multiple * (8 if size >= 64 * multiple else 1)
    found = {min(size, max(step, round(size * share / step) * step)) for share in _SHARES}
    return tuple(sorted(found | {size}))


def _milliseconds(layer: Layer, rows: int, columns: int, conditions: Conditions) -> float:
    device = layer.inputs.device
    queue = queued(conditions.applied(layer.resized(rows, columns), device), device)
    turns = {"layer": queue.call}
    seconds = time_in_turns(turns, num_threads=conditions.threads, min_seconds=_LAYER_SECONDS, device=device)
    return 1e3 * layer.num_calls * min(seconds["layer"].own) / queue.length
