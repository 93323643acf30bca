"""How does an analysed network with moments become a plan, and the plan a smaller network?"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from torch import Tensor, nn

from snp import planners
from snp.core.gram import Moments
from snp.costs import CostModel
from snp.folding import folded_weights
from snp.graph import CouplingGraph, analyse
from snp.graph.readers import Reader, readers_of
from snp.plan import GroupPlan, PruningPlan
from snp.planners import Choice, Problem, Selection
from snp.settings import PruneSettings
from snp.surgery import confirm, cut, masked_weights, self_check, with_weights
from snp.units import UnitGroup

__all__ = ["Decision", "Subject", "decide", "problem_of", "realise", "subject_of"]


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


@dataclass(frozen=True, eq=False)
class Decision:
    """A plan and the orders it was cut from."""

    plan: PruningPlan
    selection: Selection


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


def problem_of(subject: Subject, moments: Mapping[str, Moments]) -> Problem:
    """What planners look at.

    Raises:
        ValueError: a reader saw no activations.
    """
    names = {member.tensor for group in subject.groups for member in group.producers + group.consumers}
    weights = {name: subject.model.get_parameter(name).detach() for name in sorted(names)}
    for name, reader in subject.readers.items():
        if name not in moments or moments[name].count == 0:
            raise ValueError(f"no activations were measured at {reader.module}: was the calibration loader empty?")
    costs = CostModel(subject.model, subject.graph, subject.groups)
    return Problem(subject.groups, weights, subject.readers, dict(moments), costs)


def decide(subject: Subject, problem: Problem, settings: PruneSettings, **provenance: Any) -> Decision:
    """Choose the units that stay.

    Args:
        subject: from :func:`subject_of`.
        problem: from :func:`problem_of`.
        settings: planner, ordering, cut and target.
        **provenance: JSON values that the plan keeps beside the settings (``samples``, ...).
    """
    selection = planners.load(settings.planner)(problem, settings)
    decisions = tuple(
        _group_plan(group, choice) for group, choice in zip(problem.groups, selection.choices, strict=True)
    )
    kept, costs = [len(decision.kept) for decision in decisions], problem.costs
    plan = PruningPlan(
        decisions,
        settings.to_json() | {"level": selection.level, **provenance},
        macs={"dense": costs.macs(costs.dense), "pruned": costs.macs(kept)},
        params={"dense": costs.params(costs.dense), "pruned": costs.params(kept)},
        frozen=subject.frozen,
        versions=_versions(),
    )
    return Decision(plan, selection)


def _group_plan(group: UnitGroup, choice: Choice) -> GroupPlan:
    kept = choice.order[: choice.num_kept].cpu().sort().values
    variance = None if choice.kept_variance is None else float(choice.kept_variance[choice.num_kept - 1])
    return GroupPlan(group, kept, variance)


def _versions() -> dict[str, str]:
    found = {}
    for name in ("snp", "torch", "timm", "transformers"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def realise(subject: Subject, problem: Problem, plan: PruningPlan, settings: PruneSettings) -> tuple[nn.Module, float]:
    """The small network of a plan, and the result of its self-check.

    Raises:
        SelfCheckError: the small network differs from the dense one with the same units masked.
    """
    if settings.reconstruct:
        weights: Mapping[str, Tensor] = folded_weights(problem, plan.groups, settings.ridge)
    else:
        weights = masked_weights(subject.model, plan)
    masked = with_weights(subject.model, weights)
    small = cut(masked, plan)
    return small, self_check(masked, small, subject.example)
