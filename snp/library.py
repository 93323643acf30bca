"""How does one call turn a network and a few batches into a smaller network?"""

from __future__ import annotations

import copy
import importlib.metadata
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from snp import planners
from snp.activations import MomentCollector
from snp.core.gram import Moments
from snp.costs import CostModel
from snp.folding import folded_weights
from snp.graph import CouplingGraph, analyse
from snp.graph.readers import Reader, readers_of
from snp.inputs import call, first_samples, num_samples, to_device
from snp.plan import GroupPlan, PruningPlan
from snp.settings import PruneSettings
from snp.surgery import confirm, cut, masked_weights, self_check, with_weights
from snp.units import UnitGroup

__all__ = ["PruneResult", "Subject", "apply_plan", "decide", "load", "prune", "save", "subject_of"]


@dataclass(frozen=True, eq=False)
class PruneResult:
    """What a prune gives back.

    Attributes:
        model: the small network, a plain module.
        plan: what was decided.
        selection: per group the order of units and the cumulative variance along it.
        check: largest relative difference between the small network and the masked dense one on one batch.
    """

    model: nn.Module
    plan: PruningPlan
    selection: planners.Selection
    check: float


@dataclass(frozen=True, eq=False)
class Subject:
    """A network that was analysed and is ready to be calibrated.

    Attributes:
        model: the dense network in evaluation mode.
        graph: what the analysis found.
        groups: the groups that take part.
        frozen: name -> reason for everything that does not.
        readers: what is to be measured, by weight name.
        example: a small batch on the model's device.
    """

    model: nn.Module
    graph: CouplingGraph
    groups: tuple[UnitGroup, ...]
    frozen: dict[str, str]
    readers: dict[str, Reader]
    example: Any


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
        The small network in the training mode of ``model``, and the plan.

    Raises:
        ValueError: an option, the batches or the budget do not fit.
        SelfCheckError: the small network does not compute what it should (never expected).
    """
    settings = _settings(settings, options)
    dense = copy.deepcopy(model).eval()
    iterator = iter(batches)
    try:
        first = next(iterator)
    except StopIteration:
        raise ValueError("batches is empty: give at least one batch of inputs") from None
    device = next((parameter.device for parameter in dense.parameters()), torch.device("cpu"))
    subject = subject_of(dense, to_device(first_samples(first, 2), device), settings)
    moments, samples = _measure(subject, chain([first], iterator), device)
    result = decide(subject, moments, settings, samples=samples)
    result.model.train(model.training)
    return result


def _settings(settings: PruneSettings | None, options: Mapping[str, Any]) -> PruneSettings:
    known = set(PruneSettings.__dataclass_fields__)
    for name in options:
        if name not in known:
            raise ValueError(f"prune() has no option {name!r}; there are {', '.join(sorted(known))}")
    return replace(settings or PruneSettings(), **options)


def _measure(
    subject: Subject, batches: Iterable[Any], device: torch.device
) -> tuple[dict[str, Moments], int]:
    samples = 0
    with torch.no_grad(), MomentCollector(subject.model, subject.readers) as collector:
        for batch in batches:
            call(subject.model, to_device(batch, device))
            samples += num_samples(batch)
    return collector.moments, samples


def subject_of(model: nn.Module, example: Any, settings: PruneSettings) -> Subject:
    """Analyse a network and select the groups that take part.

    Args:
        model: in evaluation mode; kept, not copied.
        example: one or two samples on the model's device.
        settings: ``ignore`` and ``streams`` select groups.

    Raises:
        ValueError: nothing in the network can be cut.
    """
    graph = analyse(model, example)
    frozen = dict(graph.frozen)
    selected = []
    for group in graph.groups:
        if any(fnmatch(group.name, pattern) for pattern in settings.ignore):
            frozen[group.name] = "named by prune.ignore"
        elif group.is_stream and not settings.streams:
            frozen[group.name] = "a residual stream (prune.streams=true cuts it)"
        else:
            selected.append(group)
    groups, refused = confirm(model, selected, example)
    frozen |= refused
    if not groups:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(frozen.items())[:5])
        raise ValueError(f"nothing in {type(model).__name__} can be cut: {reasons or 'no layer reads another'}")
    return Subject(model, graph, groups, frozen, readers_of(model, groups), example)


def decide(
    subject: Subject, moments: Mapping[str, Moments], settings: PruneSettings, *, samples: int, **provenance: Any
) -> PruneResult:
    """Moments to plan to small network, with the self-check at the end.

    Args:
        subject: from :func:`subject_of`.
        moments: weight name -> moments of every reader.
        settings: options.
        samples: number of calibration samples, for the plan.
        **provenance: further JSON values for the plan's settings.
    """
    problem = _problem(subject, moments)
    selection = planners.load(settings.planner)(problem, settings)
    decisions = tuple(
        _decision(group, choice) for group, choice in zip(problem.groups, selection.choices, strict=True)
    )
    kept = [len(decision.kept) for decision in decisions]
    costs = problem.costs
    plan = PruningPlan(
        decisions,
        settings.to_json() | {"level": selection.level, "samples": samples, **provenance},
        macs={"dense": costs.macs(costs.dense), "pruned": costs.macs(kept)},
        params={"dense": costs.params(costs.dense), "pruned": costs.params(kept)},
        frozen=subject.frozen,
        versions=_versions(),
    )
    fold = folded_weights(problem, decisions, settings.ridge) if settings.reconstruct else None
    model, check = apply_plan(subject.model, plan, fold, subject.example)
    return PruneResult(model, plan, selection, check)


def _problem(subject: Subject, moments: Mapping[str, Moments]) -> planners.Problem:
    names = {member.tensor for group in subject.groups for member in group.producers + group.consumers}
    weights = {name: subject.model.get_parameter(name).detach() for name in sorted(names)}
    for name, reader in subject.readers.items():
        if name not in moments or moments[name].count == 0:
            raise ValueError(f"no activations were measured at {reader.module}: was the calibration loader empty?")
    costs = CostModel(subject.model, subject.graph, subject.groups)
    return planners.Problem(subject.groups, weights, subject.readers, dict(moments), costs)


def _decision(group: UnitGroup, choice: planners.Choice) -> GroupPlan:
    kept = choice.order[: choice.num_kept].cpu().sort().values
    variance = None if choice.kept_variance is None else float(choice.kept_variance[choice.num_kept - 1])
    return GroupPlan(group, kept, variance)


def apply_plan(
    model: nn.Module, plan: PruningPlan, folded: Mapping[str, Tensor] | None, example: Any
) -> tuple[nn.Module, float]:
    """The small network and the result of its self-check; ``folded`` None means plain deletion."""
    masked = with_weights(model, masked_weights(model, plan) if folded is None else folded)
    small = cut(masked, plan)
    return small, self_check(masked, small, example)


def _versions() -> dict[str, str]:
    found = {}
    for name in ("snp", "torch", "timm", "transformers"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def save(result: PruneResult, folder: str | Path, recipe: dict[str, Any] | None = None) -> None:
    """Write ``plan.json`` and ``pruned.safetensors``.

    Args:
        result: from :func:`prune`.
        folder: made if it is not there.
        recipe: arguments of ``snp.models.build`` for the dense model, so that :func:`load` needs nothing else.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    save_weights(result.model, target / "pruned.safetensors")
    result.plan.with_recipe(recipe or result.plan.recipe).save(target / "plan.json")


def save_weights(model: nn.Module, path: Path) -> None:
    """State dict as safetensors; tensors that share memory are written once each."""
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    partial = path.with_name(path.name + ".partial")
    save_file(state, partial)
    partial.replace(path)


def load(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The pruned network of a folder, in evaluation mode.

    Args:
        folder: with ``plan.json`` and ``pruned.safetensors``.
        model: the dense network (its weights do not matter) where the plan holds no recipe; it is not changed.

    Raises:
        ValueError: files are missing or damaged, or the plan needs ``model``.
    """
    source = Path(folder)
    plan = PruningPlan.load(source / "plan.json")
    if model is None:
        if plan.recipe is None:
            raise ValueError(f"{source / 'plan.json'} holds no recipe of the dense model: give it as load(folder, model=...)")
        from snp import models  # timm is not needed by those who bring their own model

        model = models.build(**plan.recipe)
    small = cut(model, plan)
    path = source / "pruned.safetensors"
    if not path.is_file():
        raise ValueError(f"there are no weights at {path}: the run did not reach its prune stage")
    try:
        small.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, RuntimeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} does not fit the plan beside it: {str(error).splitlines()[0]}") from error
    return small.eval()


def describe(groups: Sequence[UnitGroup]) -> list[tuple[str, int, int]]:
    """Name, number of units and number of readers of every group."""
    return [(group.name, group.num_units, len(group.consumers)) for group in groups]
