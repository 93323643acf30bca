"""How does the page say what forward passes take, and how that was measured?"""

from collections.abc import Mapping
from typing import Any

from snp.report.stages import number

__all__ = ["NOISY_SPREAD", "in_turns", "is_noisy"]

NOISY_SPREAD = 0.2  # between the quartiles of the share, as a part of it


def is_noisy(metrics: Mapping[str, Any]) -> bool:
    """Do the quartiles of the measured share lie so far apart that it means little?"""
    share, low, high = (number(metrics, f"latency/measured_share{part}") for part in ("", "_low", "_high"))
    return share is not None and low is not None and high is not None and high - low > NOISY_SPREAD * share


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
