"""How does an analysed network with moments become a plan?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import nn

from snp.fit import judge
from snp.fit.tuning import Tuned
from snp.graph.units import UnitGroup
from snp.plan import planners
from snp.plan.allotted import allotted
from snp.plan.costs import CostModel
from snp.plan.plan import GroupPlan, PruningPlan
from snp.plan.prediction import predicted
from snp.plan.problem import Choice, Problem, Selection
from snp.plan.progress import StageTime
from snp.plan.table import unreached_sentence
from snp.plan.twins import twins_left
from snp.plan.versions import versions
from snp.settings import PruneSettings
from snp.speed.clock import checked_by_clock, refuse_overhead
from snp.surgery.found import found_in
from snp.surgery.subject import Subject
from snp.surgery.surgery import shapes_of
from snp.surgery.trial_cuts import culprits

__all__ = ["FEWEST_SAMPLES", "Decision", "PruneResult", "decide"]


# Trials hold a quarter of the samples back; from fewer than a dozen of them chance decides.
FEWEST_SAMPLES = 64


@dataclass(frozen=True, eq=False, repr=False)
class PruneResult:
    """What a prune gives back.

    Attributes:
        model: the small network, a plain module.
        plan: what was decided.
        selection: per group the order of units and the cumulative variance along it.
        check: largest relative difference between the small network and the masked dense one on one batch.
        times: what every stage took, in order.
        tuned: of ``reconstruct="tuned"``, what training on the dense network's outputs did; ``model`` is its network.
        shapes: name of every parameter that the prune left -> its shape, whatever becomes of ``model``.
    """

    model: nn.Module
    plan: PruningPlan
    selection: Selection
    check: float
    times: Mapping[str, StageTime] = field(default_factory=dict)
    tuned: Tuned | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shapes", self.shapes or shapes_of(self.model))

    @property
    def shares(self) -> dict[str, float]:
        """Share of the whole time, by the clock on the wall, that every stage took."""
        whole = sum(time.seconds for time in self.times.values()) or 1.0
        return {name: time.seconds / whole for name, time in self.times.items()}

    @property
    def warning(self) -> str:
        """What calibration was too small for, or did not reach; empty where it was enough."""
        samples, repeats = self.plan.settings.get("samples", FEWEST_SAMPLES), self.plan.settings.get("repeats", 0)
        beside = unreached_sentence(self.plan.settings.get("unreached", ()))
        unreached = f"{beside}\n" if beside else ""
        again = f"Repeats: {repeats} more samples were equal to one of the others, or nearly, and left out.\n"
        few = f"Few samples: {samples} say little of which units may go; give {FEWEST_SAMPLES} or more.\n"
        if said := again * bool(repeats) + few * (samples < FEWEST_SAMPLES) + unreached:
            return said
        if self.tuned and self.tuned.epoch == 0 and len(self.tuned.distances) > 1:
            return "Tuning came no nearer, or by chance: the closed form stays. Give more samples, or a smaller rate.\n"
        return ""

    def __str__(self) -> str:
        """The plan as a table, how exactly the small network computes what it should, and where the time went."""
        check = f"Self-check: the outputs differ by {self.check:.1e} of their spread.\n"
        tuned = f"{self.tuned}\n" if self.tuned else ""
        parts = ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items())
        whole = sum(time.seconds for time in self.times.values())
        return f"{self.warning}{self.plan}\n{check}{tuned}" + (f"Time: {whole:.1f} s: {parts}.\n" if parts else "")

    def __repr__(self) -> str:
        return f"PruneResult({type(self.model).__name__}, {self.plan!r}, check={self.check:.1e})"


@dataclass(frozen=True, eq=False)
class Decision:
    """A plan, the orders it was cut from, and the problem of what is left beside blocks that go."""

    plan: PruningPlan
    selection: Selection
    problem: Problem


def decide(subject: Subject, problem: Problem, settings: PruneSettings, **provenance: Any) -> Decision:
    """Choose the units that stay.

    A group whose chosen cut the network's own code does not bear is left alone, with the reason, and the plan is made
    again.

    Args:
        subject: from :func:`subject_of`.
        problem: from :func:`problem_of`.
        settings: planner, ordering, cut and target.
        **provenance: JSON values that the plan keeps beside the settings (``samples``, ...).

    Raises:
        ValueError: the target cannot be met, or nothing is left that can be cut.
    """
    problem = _aimed(subject, problem, settings, int(provenance.get("repeats", 0)))
    if problem.target.is_timed and problem.costs.table is not None:
        refuse_overhead(problem.costs.table, problem.target)
    found: dict[str, str] = {}
    while True:
        try:
            decision = _decided(subject, problem, settings, provenance)
        except ValueError as error:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in found.items())
            raise ValueError(f"{error} Left alone after a first plan: {reasons}." if found else str(error)) from error
        refused = culprits(subject.model, decision.plan, subject.example)
        if not refused:
            return decision
        refused |= twins_left(problem.groups, refused)
        found |= refused
        subject, problem = _without(subject, problem, refused)


def _aimed(subject: Subject, problem: Problem, settings: PruneSettings, num_repeats: int) -> Problem:
    """At what is asked for; a refusal says that blocks could go, too, where they do not for want of samples."""
    target = settings.target
    if subject.removable and not problem.blocks:
        more = f"give {judge.FEWEST_SAMPLES} calibration samples or more, by which whole blocks are weighed"
        more += f" ({num_repeats} of those given repeat others)" if num_repeats else ""
        target = replace(target, remedies=(more, *target.remedies))
    return replace(problem, target=target)


def _without(subject: Subject, problem: Problem, refused: dict[str, str]) -> tuple[Subject, Problem]:
    """The same without some groups, which are frozen."""
    groups = tuple(group for group in problem.groups if group.name not in refused)
    if not groups:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise ValueError(f"nothing in {type(subject.model).__name__} can be cut: {reasons}")
    costs = CostModel(subject.model, subject.graph, groups, problem.costs.table)
    return (
        replace(subject, groups=groups, frozen=subject.frozen | refused),
        replace(problem, groups=groups, costs=costs),
    )


def _decided(subject: Subject, problem: Problem, settings: PruneSettings, provenance: dict[str, Any]) -> Decision:
    chosen, given = planners.chosen(problem, settings), problem
    clock = partial(checked_by_clock, subject) if problem.target.is_timed else None
    found = allotted(problem, chosen, tilts=settings.tilt, clock=clock)
    problem, selection = found.problem, found.selection
    decisions = tuple(
        _group_plan(group, choice) for group, choice in zip(problem.groups, selection.choices, strict=True)
    )
    kept, costs, whole = [len(decision.kept) for decision in decisions], problem.costs, problem.costs.whole
    plan = PruningPlan(
        decisions,
        settings.to_json()
        | {"level": selection.level, "tilted": found.tilt, "mirrored": False}
        | _objective(problem, settings)
        | found_in(subject, decisions)
        | provenance,
        macs={"dense": whole.macs(whole.dense), "pruned": costs.macs(kept)},
        params={"dense": whole.params(whole.dense), "pruned": costs.params(kept)},
        latency=predicted(costs, kept, given.without(problem.removed).costs),
        frozen=subject.frozen,
        versions=versions(),
        attention=subject.graph.attention,
        removed_blocks=problem.removed,
    )
    return Decision(plan, selection, problem)


def _objective(problem: Problem, settings: PruneSettings) -> dict[str, str]:
    """By what units were chosen, in words."""
    return {"objective": str(problem.objective)} if problem.objective and settings.needs_sensitivity else {}


def _group_plan(group: UnitGroup, choice: Choice) -> GroupPlan:
    kept = choice.kept
    assert group.is_even(kept), f"the planner keeps unequal numbers in the partitions of {group.name}"
    variance = None if choice.kept_variance is None else float(choice.kept_variance[choice.num_kept - 1])
    return GroupPlan(group, kept, variance)
