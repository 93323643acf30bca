"""How does one call turn a network and a few batches into a smaller network, and bring it back from disk?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from snp.fit.calibration import FEW, Measured, Sensitivity, measure, mirrors, sensitivity_of
from snp.fit.preparation import prepare, problem_of, settle
from snp.fit.realise import realise
from snp.fit.tuning import tune
from snp.graph.batch_form import parsed
from snp.graph.batches import Batch
from snp.graph.input_forms import forms_of
from snp.graph.wrappers import alike, evaluated, evaluated_copy
from snp.measure.exact import plain_arithmetic
from snp.measure.near_copies import without_near_copies
from snp.measure.repeats import Repeats
from snp.measure.streamed import refuse_streaming, stream_moments
from snp.measure.views import with_mirrored, without_mirrored
from snp.plan.level import refuse_unreachable
from snp.plan.progress import Progress
from snp.pruning import PruneResult, decide
from snp.saving import load, save
from snp.settings import PruneSettings
from snp.speed.layer_times import measure_table, measured_share
from snp.surgery import inspection
from snp.surgery.subject import subject_of

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
            arguments. Images or tokens like those the network will see; labels are not used.
        settings: all options at once, or
        progress: draw a bar with the time left for every stage, on a terminal or in a notebook.
        **options: single ones, see :class:`snp.settings.PruneSettings`: ``target_var=0.95``, ``target_macs=0.5``,
            ``ordering="zca"``, ``ignore=("head*",)``, ...

    Returns:
        The small network, its modules in the training modes of those of ``model``, the plan, and what every stage took.
        What only runs the network elsewhere or faster (``DataParallel``, ``torch.compile``) is taken off.

    Raises:
        ValueError: an option, the batches or the budget do not fit.
        SelfCheckError: the small network does not compute what it should (never expected).
    """
    settings = replace(settings or PruneSettings(), **options)
    _refuse_dry_run(settings)
    with plain_arithmetic():
        return _pruned(model, batches, settings, Progress(shows=progress))


def _pruned(model: nn.Module, batches: Iterable[Any], settings: PruneSettings, stages: Progress) -> PruneResult:
    with stages.stage("analyse"):
        dense, repeats = evaluated_copy(model), Repeats()
        others = repeats.left_out_of(batch.mapped(_usable) for batch in parsed(dense, batches))
        few = _first(others, FEW)
        first = few[0]
        subject = subject_of(dense, first.example(), settings)
        refuse_unreachable(subject.costs, subject.groups, settings.target)
        mirrored = mirrors(subject, [batch.beside(dense) for batch in few], settings)
    with stages.stage("calibrate", len(batches) if isinstance(batches, Sized) else None):
        shown = (with_mirrored(batch) if mirrored else batch for batch in chain(few, others))
        moments, samples, inputs = measure(subject, shown, settings.needs_inputs, stages)
        distinct = without_near_copies(inputs, 1 + mirrored)
        if num_near := samples - sum(batch.size for batch in distinct) if inputs else 0:
            moments, samples, inputs = measure(subject, distinct, True, stages)
        samples, num_repeats = samples // (1 + mirrored), repeats.num_repeats + num_near // (1 + mirrored)
    with stages.stage("measure sensitivity"):
        sensitivity = sensitivity_of(subject, inputs, settings) if settings.needs_sensitivity else Sensitivity()
    example, timed = first.beside(subject.model), (settings.latency_batch, settings.latency_threads)
    table = None
    if settings.target.is_timed:
        with stages.stage("time layers"):
            table = measure_table(subject.model, subject.graph, subject.groups, example, *timed)
    facts = Measured(subject, moments, sensitivity)
    with stages.stage("choose units", len(subject.groups)):
        subject, problem = prepare(facts, settings, inputs, table, stages, mirrored=mirrored)
        seen = {"samples": samples, "mirrored": mirrored, "repeats": num_repeats}
        decision = decide(subject, problem, settings, **seen)
        subject, problem = settle(facts, settings, decision.plan, (subject, problem))
    result = realise(subject, problem, decision.plan, settings, inputs)
    images = [without_mirrored(batch) for batch in inputs] if mirrored else inputs
    tuned = tune(result.model, subject.model, images, settings, stages) if settings.is_tuned else None
    small, plan = tuned.model if tuned else result.model, decision.plan
    if table is not None:
        with stages.stage("compare times"):
            plan = plan.with_latency(measured_share(subject.model, small, example, *timed))
    plan = plan.with_inputs(forms_of(first))
    return PruneResult(alike(small, model), plan, decision.selection, result.check, stages.times, tuned)


def _first(batches: Iterator[Batch], num_samples: int) -> list[Batch]:
    """As many batches as hold so many samples, or all."""
    found = list[Batch]()
    while sum(batch.size for batch in found) < num_samples and (batch := next(batches, None)) is not None:
        found.append(batch)
    return found


def prune_streamed(
    model: nn.Module,
    batches: Sequence[Any],
    settings: PruneSettings | None = None,
    *,
    progress: bool = True,
    **options: Any,
) -> PruneResult:
    """As :func:`snp.prune`, for large networks: calibrated block by block, moments on disk, no copy of the weights.

    Tensors that lose nothing are the same in both networks afterwards.

    Args:
        model: as there; it is not changed, and put into evaluation mode while this runs.
        batches: a sequence of batches on the model's device; they are used once per call of this function.
        progress: as there.
        settings: as there; the fit is joint, and order and cut are those that look at moments only.
        **options: single settings.

    Raises:
        ValueError: the settings need more than moments (sequential fit, sensitivity, heads), or the network has no
            blocks.
    """
    settings = replace(settings or PruneSettings(), **options)
    refuse_streaming(settings)
    stages, repeats = Progress(shows=progress), Repeats()
    with evaluated(model) as dense:
        with stages.stage("analyse"):
            inputs = [batch.beside(dense) for batch in repeats.left_out_of(parsed(dense, batches))]
            subject = subject_of(dense, inputs[0].example(), settings)
            refuse_unreachable(subject.costs, subject.groups, settings.target)
        with tempfile.TemporaryDirectory() as folder:
            with stages.stage("calibrate"):
                moments = stream_moments(subject.model, inputs, subject.readers, Path(folder))
            with stages.stage("choose units", len(subject.groups)):
                problem = replace(problem_of(subject, moments), progress=stages)
                seen = {"samples": sum(batch.size for batch in inputs), "repeats": repeats.num_repeats}
                decision = decide(subject, problem, settings, **seen)
            result = realise(subject, problem, decision.plan, settings, share=True)
    plan = decision.plan.with_inputs(forms_of(inputs[0]))
    return PruneResult(alike(result.model, model), plan, decision.selection, result.check, stages.times)


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
