"""How does one call turn a network and a few batches into a smaller network, and bring it back from disk?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from snp.fit.arguments import settings_of
from snp.fit.calibration import calibrate
from snp.fit.preparation import prepare, settle
from snp.fit.realise import realise
from snp.fit.stream_bases import in_stream_bases
from snp.fit.tuning import left_to_fit, tune
from snp.graph.batches import device_of
from snp.graph.borrowed import refuse_borrowed
from snp.graph.edges import told_of_edges
from snp.graph.input_forms import forms_of
from snp.graph.wrappers import alike, evaluated, evaluated_copy, unwrapped
from snp.measure.exact import plain_arithmetic
from snp.measure.samples import GivenSamples
from snp.measure.streamed import refuse_streaming
from snp.measure.visiting import visited_device
from snp.plan.level import refuse_unreachable
from snp.plan.progress import Progress
from snp.pruning import PruneResult, decide
from snp.saving import load, save
from snp.settings import PruneSettings
from snp.speed.device_rounding import with_rounding_of
from snp.speed.layer_times import measure_table, measured_share
from snp.speed.passes import Conditions, autocast_of
from snp.surgery import inspection
from snp.surgery.moved_buffers import with_given_buffers
from snp.surgery.subject import Subject, subject_of

__all__ = ["inspect", "load", "prune", "prune_streamed", "save"]


def prune(
    model: nn.Module,
    batches: Iterable[Any],
    settings: PruneSettings | None = None,
    *,
    progress: bool = True,
    **options: Any,
) -> PruneResult:
    """Make a network smaller from one pass over a few unlabelled batches.

    Args:
        model: any module that ``torch.export`` accepts; it is not changed.
        batches: an iterable of batches as the model gets them: tensors, (inputs, labels) pairs, or mappings of keyword
            arguments. Images or tokens like those the network will see; labels are not used. Samples lie along the
            first dimension of every tensor, [N, T, C] and not [T, N, C]; tensors that belong to all are recognised.
        settings: all options at once, or
        progress: draw a bar with the time left for every stage, on a terminal or in a notebook.
        **options: single ones, see :class:`snp.settings.PruneSettings`: ``target_var=0.95``, ``target_macs=0.5``,
            ``ordering="zca"``, ``ignore=("head*",)``, ...

    Returns:
        The small network, its modules in the training modes of those of ``model``, the plan, and what every stage took.
        What only runs the network elsewhere or faster (``DataParallel``, ``torch.compile``) is taken off.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: an option, the batches or the budget do not fit.
        SelfCheckError: the small network does not compute what it should (never expected).
    """
    settings = settings_of(model, settings, options, batches)
    autocast = autocast_of(device_of(model))
    with plain_arithmetic(), torch.random.fork_rng(devices=[]):  # layers that are made anew are drawn at random
        return _pruned(model, batches, settings, Progress(shows=progress), autocast)


def _pruned(
    model: nn.Module, batches: Iterable[Any], settings: PruneSettings, stages: Progress, autocast: torch.dtype | None
) -> PruneResult:
    with stages.stage("analyse"):
        dense = evaluated_copy(model)
        given = GivenSamples(dense, batches)
        with told_of_edges(dense, given.few[0]):
            refuse_borrowed(dense, unwrapped(model), given.few[0].beside(dense).example())
            subject = subject_of(dense, given.few[0].example(), settings)
        refuse_unreachable(subject.costs, subject.groups, settings.target, subject.removable)
    with told_of_edges(dense, given.few[0]):
        result = _carried_out(subject, given, settings, stages, autocast)
    buffers = dict(unwrapped(model).named_buffers())
    small = with_given_buffers(result.model, subject.model, buffers, result.plan)
    return replace(result, model=alike(small, model))


def _carried_out(
    subject: Subject,
    given: GivenSamples,
    settings: PruneSettings,
    stages: Progress,
    autocast: torch.dtype | None,
    folder: Path | None = None,
) -> PruneResult:
    """Everything that follows the analysis; with a folder for moments, block by block."""
    conditions = Conditions(settings.latency_batch, settings.latency_threads, autocast)
    settings, found = with_rounding_of(subject, settings, conditions, stages)
    measured = calibrate(subject, given, settings, stages, folder)
    example, table = given.few[0].beside(subject.model), None
    if settings.target.is_timed:
        with stages.stage("time layers"):
            table = measure_table(subject, example, conditions)
    with stages.stage("choose units", len(subject.groups)):
        measured = in_stream_bases(measured, settings)
        subject, problem = prepare(measured, settings, table, stages)
        decision = decide(subject, problem, settings, **measured.samples.facts, **found)
        subject, problem = settle(measured, decision.plan, (subject, problem))
    fitted_on = left_to_fit(subject.model, measured.samples, settings)
    result = realise(subject, problem, decision.plan, settings.fit, fitted_on, share=folder is not None)
    tuned = None
    if settings.is_tuned:
        tuned = tune(result.model, subject.model, measured.samples.as_given, measured.asked(), settings, stages)
        if not tuned.epoch and fitted_on is not measured.samples:  # nothing is judged any more: fitted on all of them
            result = realise(subject, problem, decision.plan, settings.fit, measured.samples)
            tuned = replace(tuned, model=result.model)
    small, plan = tuned.model if tuned else result.model, decision.plan
    if table is not None:
        with stages.stage("compare times"):
            plan = plan.with_latency(measured_share(subject.model, small, example, Conditions.of(table)))
    plan = plan.with_inputs(forms_of(given.few[0]))
    return PruneResult(small, plan, decision.selection, result.check, stages.times, tuned)


def prune_streamed(
    model: nn.Module,
    batches: Iterable[Any],
    settings: PruneSettings | None = None,
    *,
    device: torch.device | str | None = None,
    progress: bool = True,
    **options: Any,
) -> PruneResult:
    """As :func:`snp.prune`, for large networks: block by block, moments on disk, no second copy of the weights.

    One block's activations are in memory: all samples' where ``memory_gib`` has room for them, else those of one
    batch, which are computed anew for every layer that is fitted. Plan and weights are those of :func:`snp.prune`.

    Args:
        model: as there, in evaluation mode while this runs; tensors that lose nothing are the same in both networks.
        batches: as there; all inputs are in main memory and stay there, or on the model's device.
        device: where blocks are worked on in turn, the network staying in memory or a file; by default where it is.
        progress: as there.
        settings: as there, but for trial cuts (``trials=False``), tuning, latency budgets and attention heads.
        **options: single settings.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: the settings need the network as a whole, it has no blocks, or blocks cannot visit the device.
    """
    settings = settings_of(model, settings, options, batches)
    refuse_streaming(settings)
    visited = None if device is None else visited_device(device_of(model), device)
    stages, autocast = Progress(shows=progress), autocast_of(visited or device_of(model))
    buffers = {name: buffer.clone() for name, buffer in unwrapped(model).named_buffers()}
    with plain_arithmetic(), torch.random.fork_rng([]), evaluated(model) as dense, TemporaryDirectory() as folder:
        with stages.stage("analyse"):
            given = GivenSamples(dense, batches)
            subject = subject_of(dense, given.few[0].beside(dense).example(), settings).in_blocks(visited)
            refuse_unreachable(subject.costs, subject.groups, settings.target)
        with told_of_edges(dense, given.few[0]):
            result = _carried_out(subject, given, settings, stages, autocast, Path(folder))
        small = with_given_buffers(result.model, subject.model, buffers, result.plan)
    return replace(result, model=alike(small, model))


def inspect(
    model: nn.Module, batch: Any, settings: PruneSettings | None = None, **options: Any
) -> inspection.Inspection:
    """Every group of a network: units, readers, share of the multiply-accumulates, and why others are left alone.

    Args:
        model: any module that ``torch.export`` accepts; nothing is trained, measured or changed.
        batch: inputs as the model gets them, as one of the batches of :func:`prune`.
        settings: all options at once, or
        **options: those that select groups: ``ignore=("head",)``, ``streams=True``.

    Returns:
        The facts; ``print`` shows them as a table.

    Raises:
        TypeError: an argument is of another kind.
    """
    with torch.random.fork_rng(devices=[]):
        return inspection.inspect(model, batch, settings_of(model, settings, options))
