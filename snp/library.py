"""How does one call turn a network and a few batches into a smaller network, and bring it back from disk?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snp.core.gram import Moments
from snp.fit.realise import realise
from snp.graph.batch_form import parsed
from snp.graph.batches import Batch
from snp.graph.wrappers import alike, evaluated_copy, unwrapped
from snp.measure.exact import plain_arithmetic
from snp.measure.moments import MomentCollector
from snp.measure.streamed import refuse_streaming, stream_moments
from snp.preparation import prepare, settle
from snp.pruning import PruneResult, decide, problem_of, sensitivity_of
from snp.saving import load, save
from snp.settings import PruneSettings
from snp.speed.layer_times import measure_table, measured_share
from snp.surgery import inspection
from snp.surgery.subject import Subject, subject_of

__all__ = ["inspect", "load", "prune", "prune_streamed", "save"]


def prune(
    model: nn.Module, batches: Iterable[Any], settings: PruneSettings | None = None, **options: Any
) -> PruneResult:
    """Make a network smaller from one pass over a few unlabelled batches.

    Args:
        model: any module that ``torch.export`` accepts; it is not changed.
        batches: an iterable of batches as the model gets them: tensors, (inputs, labels) pairs, or mappings of keyword
            arguments. Images or tokens like those the network will see; labels are not used.
        settings: all options at once, or
        **options: single ones, see :class:`snp.settings.PruneSettings`: ``target_var=0.95``, ``target_macs=0.5``,
            ``ordering="zca"``, ``ignore=("head*",)``, ...

    Returns:
        The small network, its modules in the training modes of those of ``model``, and the plan. What only runs the
        network elsewhere or faster (``DataParallel``, ``torch.compile``) is taken off.

    Raises:
        ValueError: an option, the batches or the budget do not fit.
        SelfCheckError: the small network does not compute what it should (never expected).
    """
    settings = replace(settings or PruneSettings(), **options)
    _refuse_dry_run(settings)
    with plain_arithmetic():
        return _pruned(model, batches, settings)


def _pruned(model: nn.Module, batches: Iterable[Any], settings: PruneSettings) -> PruneResult:
    dense = evaluated_copy(model)
    others = parsed(dense, batches)
    others = (batch.mapped(_usable) for batch in others)
    first = next(others)
    subject = subject_of(dense, first.first(2), settings)
    keeps_inputs = settings.is_sequential or settings.needs_sensitivity
    moments, samples, inputs = _measure(subject, chain([first], others), keeps_inputs)
    sensitivity = sensitivity_of(subject, inputs, settings) if settings.needs_sensitivity else {}
    example, timed = first.beside(subject.model), (settings.latency_batch, settings.latency_threads)
    table = (
        measure_table(subject.model, subject.graph, subject.groups, example, *timed)
        if settings.target.is_timed
        else None
    )
    measured = subject, moments, sensitivity, settings
    subject, problem = prepare(*measured, inputs, table)
    decision = decide(subject, problem, settings, samples=samples)
    subject, problem = settle(*measured, decision.plan, (subject, problem))
    result = realise(subject, problem, decision.plan, settings, inputs)
    plan = decision.plan
    if table is not None:
        plan = plan.with_latency(measured_share(subject.model, result.model, example, *timed))
    plan = plan.with_inputs(first.forms)
    return PruneResult(alike(result.model, model), plan, decision.selection, result.check)


def prune_streamed(
    model: nn.Module, batches: Sequence[Any], settings: PruneSettings | None = None, **options: Any
) -> PruneResult:
    """As :func:`snp.prune`, for large networks: calibrated block by block, moments on disk, no copy of the weights.

    Tensors that lose nothing are the same in both networks afterwards.

    Args:
        model: as there; it is not changed, and put into evaluation mode while this runs.
        batches: a sequence of batches on the model's device; they are used once per call of this function.
        settings: as there; the fit is joint, and order and cut are those that look at moments only.
        **options: single settings.

    Raises:
        ValueError: the settings need more than moments (sequential fit, sensitivity, heads), or the network has no
            blocks.
    """
    settings = replace(settings or PruneSettings(), **options)
    refuse_streaming(settings)
    model, modes = unwrapped(model), [(module, module.training) for module in unwrapped(model).modules()]
    try:
        inputs = [batch.beside(model) for batch in parsed(model.eval(), batches)]
        subject = subject_of(model.eval(), inputs[0].first(2), settings)
        with tempfile.TemporaryDirectory() as folder:
            moments = stream_moments(model, inputs, subject.readers, Path(folder))
            problem = problem_of(subject, moments)
            decision = decide(subject, problem, settings, samples=sum(batch.size for batch in inputs))
            result = realise(subject, problem, decision.plan, settings, share=True)
    finally:
        for module, mode in modes:
            module.training = mode
    return PruneResult(alike(result.model, model), decision.plan, decision.selection, result.check)


def _usable(tensor: Tensor) -> Tensor:
    """What was made in inference mode can neither be exported nor have gradients; its copy can."""
    return tensor.clone() if tensor.is_inference() else tensor


def _refuse_dry_run(settings: PruneSettings) -> None:
    if settings.dry_run:
        raise ValueError("dry_run belongs to the command line; snp.inspect(model, batch) lists the groups of a network")


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
    """
    return inspection.inspect(model, batch, replace(settings or PruneSettings(), **options))


def _measure(
    subject: Subject, batches: Iterable[Batch], keeps_inputs: bool
) -> tuple[dict[str, Moments], int, list[Batch]]:
    """Moments, number of samples, and the inputs themselves where they are needed again."""
    samples, inputs = 0, list[Batch]()
    with torch.no_grad(), MomentCollector(subject.model, subject.readers) as collector:
        for batch in batches:
            on_device = batch.beside(subject.model)
            collector.run(on_device)
            samples += batch.size
            if keeps_inputs:
                inputs.append(on_device)
    return collector.moments, samples, inputs
