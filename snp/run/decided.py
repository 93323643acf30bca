"""What does a decision leave in the run folder?  The plan, the curves behind it, and what of the target is met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from snp.plan.plan import PruningPlan
from snp.plan.problem import Problem, Selection
from snp.run.folder import RunFolder
from snp.settings import PruneSettings

__all__ = ["write_decision"]


def write_decision(
    folder: RunFolder,
    plan: PruningPlan,
    selection: Selection,
    problem: Problem,
    settings: PruneSettings,
    facts: Mapping[str, Any],
) -> None:
    """Write ``plan.json``, ``run.json`` and the tables behind them, and record what was asked for and reached.

    Args:
        folder: of the run.
        plan: what was decided.
        selection: orders and curves of the groups.
        problem: knows the costs; its groups are those of the plan, in its order.
        settings: what was asked for.
        facts: of the run.
    """
    kept = [len(decision.kept) for decision in plan.groups]
    plan.save(folder.path / "plan.json")
    folder.write_variance(problem.groups, selection)
    folder.write_damage(problem.groups, selection)
    folder.write_layers(problem.costs, kept)
    folder.write_facts(facts)
    folder.record(_target(settings, problem, kept))


def _target(settings: PruneSettings, problem: Problem, kept: Sequence[int]) -> dict[str, Any]:
    """The target in the unit that was asked for, and of a budget the share that is left."""
    target = settings.target
    asked = {"prune/target": f"target_{target.kind}", "prune/target_value": target.share}
    if not target.is_budget:
        return asked
    cost = problem.costs.of_target(target)
    whole = problem.costs.whole
    before, after = whole.of_target(target)(whole.dense), cost(kept)
    return asked | {"prune/reached": after / before, "prune/dense_cost": before, "prune/pruned_cost": after}
