"""Which weights take over what the cut units did?  All groups that a reader sees are fitted together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from snp.core.gram import Moments
from snp.core.reconstruct import reconstructed
from snp.core.shrinkage import shrunk
from snp.measure.readers import Reader
from snp.plan.placing import place_of
from snp.plan.plan import GroupPlan, PruningPlan
from snp.plan.problem import Problem
from snp.surgery.surgery import masked_weights, silent_rows

__all__ = ["USUAL_RIDGE", "fitted_jointly", "folded_weights", "kept_columns", "without_chance"]

USUAL_RIDGE = 1e-4
# Samples per column below which chance explains columns by others.
_FEW = 2


def fitted_jointly(model: nn.Module, problem: Problem, plan: PruningPlan, ridge: float | None) -> dict[str, Tensor]:
    """Name -> weight of everything that a plan changes, in dense shape: what was cut is zero, readers are folded.

    Args:
        model: the dense network.
        problem: groups, weights and moments; its progress is told of every reader.
        plan: the units that stay.
        ridge: as of :func:`folded_weights`.
    """
    weights = masked_weights(model, plan)
    with problem.progress.stage("fit weights", len(problem.readers)):
        for name in list(problem.readers):  # one at a time, each in the place of the other
            weights |= folded_weights(problem, plan.groups, ridge, [name])
            problem.progress.step()
    for name, (dim, rows) in silent_rows(plan).items():  # of a projection that lost inputs, too
        weights[name] = weights[name].index_fill(dim, rows.to(weights[name].device), 0.0)
    return weights


def folded_weights(
    problem: Problem, decisions: Sequence[GroupPlan], ridge: float | None, names: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """New weight of every reader that loses columns, in dense shape with zeros in the cut columns.

    Args:
        problem: groups, weights and moments.
        decisions: which units stay.
        ridge: relative ridge of the fit; None for the usual 1e-4, and shrunk moments where samples are few.
        names: weights to fold; all readers when None.

    Returns:
        Name -> weight, in main memory.
    """
    weights: dict[str, Tensor] = {}
    for name in problem.readers if names is None else names:
        reader = problem.readers[name]
        kept = kept_columns(reader, decisions)
        if len(kept) == reader.num_columns:
            continue
        place = place_of(problem.device, (reader.num_columns,))
        ridge_used, moments = USUAL_RIDGE if ridge is None else ridge, problem.moments[name].to(place)
        if ridge is None:
            moments = without_chance(reader, moments)
        weight = problem.weights[name].to(place)
        weights[name] = _folded(weight, reader, moments.second, kept.to(place), ridge_used).cpu()
    return weights


def without_chance(reader: Reader, moments: Moments) -> Moments:
    """Moments whose Gram matrix is shrunk where samples are so few that chance explains columns by others."""
    if moments.count >= _FEW * (reader.num_columns // reader.num_blocks):
        return moments
    count = max(moments.count, 1)
    return Moments(shrunk(moments.second / count, count) * count, moments.first, moments.count)


def _folded(weight: Tensor, reader: Reader, gram_CC: Tensor, kept: Tensor, ridge: float) -> Tensor:
    """The rows of each block take over what the cut columns of their own block did."""
    parts = []
    for rows, block in zip(reader.rows(weight).chunk(reader.num_blocks), reader.blocks(kept), strict=True):
        parts.append(reconstructed(rows, gram_CC[block.columns, block.columns], block.kept, ridge))
    return reader.from_rows(torch.cat(parts))


def kept_columns(reader: Reader, decisions: Sequence[GroupPlan]) -> Tensor:
    """Gram columns of a reader that stay, ascending, all groups together, shape [K]."""
    is_kept = torch.ones(reader.num_columns, dtype=torch.bool)
    for decision in decisions:
        for member in decision.group.consumers:
            if member.tensor == reader.weight:
                is_kept[reader.columns(member)[decision.cut].reshape(-1)] = False
    return is_kept.nonzero().flatten()
