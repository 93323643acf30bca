"""How does the page say what forward passes take, and how that was measured?"""

from collections.abc import Mapping
from typing import Any

from snp.report.stages import number


def in_turns(metrics: Mapping[str, Any]) -> list[str]:
    """Say what passes of the dense and the pruned network took, measured in turns, and what the plan had predicted."""
    names = ("measured_share", "measured_share_low", "measured_share_high", "passes", "batch", "threads")
    found = {name: number(metrics, f"latency/{name}") for name in (*names, "predicted_share")}
    if any(found[name] is None for name in names):
        return []
    share, low, high, passes, batch, threads = (found[name] or 0.0 for name in names)
    line = (
        f"Measured in turns ({passes:.0f} passes each, batch {batch:.0f}, CPU threads: {threads:.0f}), the pruned "
        f"network takes {100 * share:.1f} % of the dense one's time (quartiles {100 * low:.1f} to {100 * high:.1f} %)"
    )
    predicted = found["predicted_share"]
    return [line + (f"; the plan predicted {100 * predicted:.1f} %." if predicted is not None else ".")]
