"""What does a plan promise of a latency budget?"""

from __future__ import annotations

from collections.abc import Sequence

from snp.plan.costs import CostModel

__all__ = ["predicted"]


def predicted(costs: CostModel, kept: Sequence[int], by_layers: CostModel) -> dict[str, float]:
    """What the plan says of a latency budget; nothing where no times were measured.

    Args:
        costs: as they are known once a cut network was timed.
        kept: units per group.
        by_layers: the costs before; what they predict goes in as ``layers_share``.
    """
    table = costs.table
    if table is None:
        return {}
    dense_ms, pruned_ms = costs.whole.latency(costs.whole.dense), costs.latency(kept)
    return {
        "batch": table.batch,
        "threads": table.threads,
        "graphs": float(table.graphs),
        "idle_share": table.idle_share,
        "overhead_share": table.overhead_share,
        "predicted_ms": pruned_ms,
        "predicted_share": pruned_ms / dense_ms,
        "layers_share": by_layers.latency(kept) / by_layers.whole.latency(costs.whole.dense),
    }
