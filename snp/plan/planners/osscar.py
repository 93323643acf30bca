"""What does a local search over sets of units give?  The peer that looks for the best set layer by layer.

OSSCAR (arXiv 2403.12983): every layer keeps the same share of its units, and within it the set is sought whose
refitted output error is least, by swaps that start from greedy backward elimination. Errors are those of the layer's
outputs, with no regard to what the network makes of them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from snp.core.elimination import eliminate
from snp.core.local_search import local_search
from snp.core.orderings import interleaved
from snp.graph.units import UnitGroup
from snp.plan.allocation import equal_shares
from snp.plan.level import selected
from snp.plan.problem import Problem, Selection
from snp.plan.statistics import group_statistics
from snp.settings import PruneSettings

__all__ = ["choose"]


def choose(problem: Problem, settings: PruneSettings) -> Selection:
    """The same share of every group, the set improved by swaps; partitioned groups keep the greedy set."""
    problem = replace(problem, sensitivity={})

    return selected(
        problem,
        equal_shares(problem.costs.dense),
        lambda number, count: _order(problem, problem.groups[number], count),
    )


def _order(problem: Problem, group: UnitGroup, num_kept: int) -> Tensor:
    """A permutation whose first units are the set found, in greedy order before and behind the cut."""
    # Nothing is drawn at random here; statistics carry a generator for orderings that do.
    readers = group_statistics(problem, group, torch.Generator()).readers
    order = eliminate(readers)[0]
    if group.num_partitions > 1:
        return interleaved(order, group.num_partitions).cpu()
    chosen, _ = local_search(readers, num_kept, order[:num_kept])
    is_kept = torch.isin(order, chosen)
    return torch.cat([order[is_kept], order[~is_kept]]).cpu()
